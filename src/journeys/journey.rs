//! A journey, its steps, and the rules by which its status follows them.
//!
//! - A new step on a completed journey makes it active again.
//! - Completing a step makes a draft active; completing the last open step makes the journey completed.
//! - Completing a completed step changes nothing.
//! - Anyone may set any status at any time; the steps stay as they are.

use serde::{Deserialize, Serialize};

/// The most steps a journey can have.
pub(super) const STEPS_MAX: usize = 50;

/// How far a journey is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Draft,
    Active,
    Completed,
}

impl Status {
    pub(super) const ALL: [Status; 3] = [Status::Draft, Status::Active, Status::Completed];

    pub(super) fn name(self) -> &'static str {
        match self {
            Status::Draft => "draft",
            Status::Active => "active",
            Status::Completed => "completed",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|it| it.name() == name)
    }
}

/// One step. Numbers count from 1 in the order of the steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) number: usize,
    pub(super) text: String,
    pub(super) completed: bool,
}

/// How a caller names a step.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StepName {
    Number(u64),
    /// The exact text; or, if no step has it, a number written as text.
    Text(String),
}

/// One journey, as it is answered. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Journey {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) status: Status,
    pub(super) steps: Vec<Step>,
    pub(super) created_at: String,
    pub(super) updated_at: String,
}

/// Why an action on a journey cannot be done.
#[derive(Debug, PartialEq)]
pub(super) enum Problem {
    UnknownJourney { id: String },
    UnknownStep { id: String, step: StepName, steps: usize },
    TooManySteps { id: String },
    Storage { cause: String },
}

impl Journey {
    /// Adds an open step at the end.
    pub(super) fn add_step(&mut self, text: String) -> Result<(), Problem> {
        if STEPS_MAX <= self.steps.len() {
            return Err(Problem::TooManySteps { id: self.id.clone() });
        }
        self.steps.push(Step { number: self.steps.len() + 1, text, completed: false });
        if self.status == Status::Completed {
            self.status = Status::Active;
        }
        Ok(())
    }

    /// Marks a step as completed. Of several with the same text it is the first open one.
    pub(super) fn complete_step(&mut self, name: StepName) -> Result<(), Problem> {
        let Some(index) = self.find_step(&name) else {
            return Err(Problem::UnknownStep { id: self.id.clone(), step: name, steps: self.steps.len() });
        };
        let step = &mut self.steps[index];
        if step.completed {
            return Ok(());
        }
        step.completed = true;

        let is_last = self.steps.iter().all(|it| it.completed);
        if is_last {
            self.status = Status::Completed;
        } else if self.status == Status::Draft {
            self.status = Status::Active;
        }
        Ok(())
    }

    fn find_step(&self, name: &StepName) -> Option<usize> {
        let number = match name {
            StepName::Number(number) => *number,
            StepName::Text(text) => {
                let open = self.steps.iter().position(|it| it.text == *text && !it.completed);
                let any = open.or_else(|| self.steps.iter().position(|it| it.text == *text));
                if any.is_some() {
                    return any;
                }
                text.parse().ok()?
            }
        };
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        (index < self.steps.len()).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journey(status: Status, steps: &[&str]) -> Journey {
        let steps = steps.iter().enumerate();
        let steps = steps.map(|(index, text)| Step { number: index + 1, text: (*text).to_owned(), completed: false });
        Journey {
            id: "j".to_owned(),
            name: "Journey".to_owned(),
            description: String::new(),
            status,
            steps: steps.collect(),
            created_at: String::new(),
            updated_at: String::new(),
        }
    }

    fn text(text: &str) -> StepName {
        StepName::Text(text.to_owned())
    }

    #[track_caller]
    fn check_completed(journey: &Journey, expected: &[usize], status: Status) {
        let completed: Vec<_> = journey.steps.iter().filter(|it| it.completed).map(|it| it.number).collect();
        assert_eq!((completed.as_slice(), journey.status), (expected, status));
    }

    #[test]
    fn the_first_completed_step_starts_a_draft_and_the_last_one_completes_it() {
        let mut journey = journey(Status::Draft, &["pack", "go"]);
        journey.complete_step(StepName::Number(2)).unwrap();
        check_completed(&journey, &[2], Status::Active);
        journey.complete_step(text("pack")).unwrap();
        check_completed(&journey, &[1, 2], Status::Completed);
    }

    #[test]
    fn a_new_step_on_a_completed_journey_opens_it_again() {
        let mut journey = journey(Status::Completed, &[]);
        journey.add_step("one more".to_owned()).unwrap();
        check_completed(&journey, &[], Status::Active);
    }

    #[test]
    fn completing_a_completed_step_again_changes_nothing() {
        let mut journey = journey(Status::Draft, &["pack", "go"]);
        journey.complete_step(StepName::Number(1)).unwrap();
        journey.status = Status::Draft;
        journey.complete_step(StepName::Number(1)).unwrap();
        check_completed(&journey, &[1], Status::Draft);
    }

    #[test]
    fn a_text_names_its_first_open_step_before_it_is_taken_for_a_number() {
        let mut journey = journey(Status::Active, &["wait", "wait", "1", "go"]);
        journey.complete_step(text("wait")).unwrap();
        journey.complete_step(text("wait")).unwrap();
        check_completed(&journey, &[1, 2], Status::Active);
        journey.complete_step(text("1")).unwrap();
        check_completed(&journey, &[1, 2, 3], Status::Active);
        journey.complete_step(text("4")).unwrap();
        check_completed(&journey, &[1, 2, 3, 4], Status::Completed);
    }

    #[test]
    fn a_step_that_is_not_there_is_refused() {
        let mut journey = journey(Status::Active, &["pack"]);
        for step in [StepName::Number(0), StepName::Number(2), StepName::Number(u64::MAX), text("2"), text("go")] {
            let expected = Problem::UnknownStep { id: "j".to_owned(), step: step.clone(), steps: 1 };
            assert_eq!(journey.complete_step(step), Err(expected));
        }
        check_completed(&journey, &[], Status::Active);
    }

    #[test]
    fn a_journey_takes_no_more_than_its_most_steps() {
        let mut journey = journey(Status::Active, &["step"; STEPS_MAX]);
        assert_eq!(journey.add_step("more".to_owned()), Err(Problem::TooManySteps { id: "j".to_owned() }));
        assert_eq!(journey.steps.len(), STEPS_MAX);
    }
}
