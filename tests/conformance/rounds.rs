//! The modern tools, and the prompt, that ask by ending with `input_required`; the client calls again with the answers.
//!
//! Nothing is kept between two rounds: the answers and the signed state of the second say all. A question that is not
//! answered is asked again, and so is one whose answer is no object; answers to what was not asked are passed over.

use serde_json::{Map, Value, json};

use crate::{
    content::{messages, text},
    request::{Era, Failure, Outcome, Request},
    state,
    tools::{Tool, contents, declares, no_arguments, require},
};

pub(crate) const PROMPT: &str = "test_input_required_result_prompt";

pub(crate) const TOOLS: &[Tool] = &[
    tool("test_input_required_result_elicitation", "Asks the user for a name.", elicitation),
    tool("test_input_required_result_sampling", "Asks the client's model.", sampling),
    tool("test_input_required_result_list_roots", "Asks for the client's roots.", list_roots),
    tool("test_input_required_result_request_state", "Asks, and wants its state back.", request_state),
    tool("test_input_required_result_multiple_inputs", "Asks three things at once.", multiple_inputs),
    tool("test_input_required_result_multi_round", "Asks twice.", multi_round),
    tool("test_input_required_result_tampered_state", "Asks, and refuses a state it did not sign.", request_state),
    tool("test_input_required_result_capabilities", "Asks what the client says it can answer.", capabilities),
];

const fn tool(name: &'static str, description: &'static str, run: fn(&Request<'_>) -> Outcome) -> Tool {
    Tool { name, description, era: Some(Era::Modern), input_schema: no_arguments, run }
}

pub(crate) fn prompt(request: &Request<'_>) -> Outcome {
    require(request, &["elicitation"])?;
    let answers = Answers::of(request)?;
    let Some(context) = answers.content("user_context", "context") else {
        return Ok(asked(&[("user_context", elicit("What is the context?", "context", "string"))], None));
    };
    Ok(messages(vec![text(format!("Please go on in this context: {context}"))]))
}

fn elicitation(request: &Request<'_>) -> Outcome {
    require(request, &["elicitation"])?;
    let answers = Answers::of(request)?;
    match answers.content("user_name", "name") {
        Some(name) => Ok(contents(vec![text(format!("Hello, {name}!"))])),
        None => Ok(asked(&[("user_name", elicit("What is your name?", "name", "string"))], None)),
    }
}

fn sampling(request: &Request<'_>) -> Outcome {
    require(request, &["sampling"])?;
    let answers = Answers::of(request)?;
    match answers.sampled("capital_question") {
        Some(answer) => Ok(contents(vec![text(answer)])),
        None => Ok(asked(&[("capital_question", sample("What is the capital of France?", 100))], None)),
    }
}

fn list_roots(request: &Request<'_>) -> Outcome {
    require(request, &["roots"])?;
    let answers = Answers::of(request)?;
    match answers.roots("client_roots") {
        Some(roots) => Ok(contents(vec![text(format!("The client's roots: {roots}"))])),
        None => Ok(asked(&[("client_roots", roots())], None)),
    }
}

fn request_state(request: &Request<'_>) -> Outcome {
    require(request, &["elicitation"])?;
    let answers = Answers::of(request)?;
    let is_answered = answers.round == Some(1) && answers.get("confirm").is_some();
    if is_answered {
        return Ok(contents(vec![text("The state came back unchanged: state-ok")]));
    }
    Ok(asked(&[("confirm", elicit("Go on?", "ok", "boolean"))], Some(&answers.state(1))))
}

fn multiple_inputs(request: &Request<'_>) -> Outcome {
    require(request, &["elicitation", "sampling", "roots"])?;
    let answers = Answers::of(request)?;
    let name = answers.content("user_name", "name");
    let greeting = answers.sampled("greeting");
    let client_roots = answers.roots("client_roots");
    if let (Some(1), Some(name), Some(greeting), Some(client_roots)) = (answers.round, name, greeting, client_roots) {
        return Ok(contents(vec![text(format!("{greeting} {name}, with these roots: {client_roots}"))]));
    }
    let questions = [
        ("user_name", elicit("What is your name?", "name", "string")),
        ("greeting", sample("Write a greeting.", 50)),
        ("client_roots", roots()),
    ];
    Ok(asked(&questions, Some(&answers.state(1))))
}

fn multi_round(request: &Request<'_>) -> Outcome {
    require(request, &["elicitation"])?;
    let answers = Answers::of(request)?;
    let has_answered = |round, key| answers.round == Some(round) && answers.get(key).is_some();
    if has_answered(2, "step2") {
        return Ok(contents(vec![text("Both questions are answered.")]));
    }
    let is_second = answers.round == Some(2) || has_answered(1, "step1");
    if is_second {
        let question = elicit("Step 2: What is your favorite color?", "color", "string");
        return Ok(asked(&[("step2", question)], Some(&answers.state(2))));
    }
    let question = elicit("Step 1: What is your name?", "name", "string");
    Ok(asked(&[("step1", question)], Some(&answers.state(1))))
}

/// One question of each kind that the client has declared, and none of the others.
fn capabilities(request: &Request<'_>) -> Outcome {
    let questions = [
        ("elicitation", "user_name", elicit("What is your name?", "name", "string")),
        ("sampling", "capital_question", sample("What is the capital of France?", 100)),
        ("roots", "client_roots", roots()),
    ];
    let answers = Answers::of(request)?;
    let mut open = Vec::new();
    for (capability, key, question) in questions {
        let is_open = declares(request, capability) && answers.get(key).is_none();
        if is_open {
            open.push((key, question));
        }
    }
    if open.is_empty() {
        return Ok(contents(vec![text("There is nothing left to ask this client.")]));
    }
    Ok(asked(&open, None))
}

/// What the client has brought back of an earlier round.
struct Answers<'a> {
    name: &'a str,
    responses: Option<&'a Map<String, Value>>,
    /// Of the state that was brought back.
    round: Option<u32>,
}

impl<'a> Answers<'a> {
    fn of(request: &'a Request<'_>) -> Result<Answers<'a>, Failure> {
        let name = request.text("name")?;
        let responses = match request.params.get("inputResponses") {
            None => None,
            Some(Value::Object(responses)) => Some(responses),
            Some(_) => return Err(Failure::invalid_params("`inputResponses` must be an object")),
        };
        let round = match request.params.get("requestState") {
            None => None,
            Some(Value::String(state)) => Some(state::verify(name, state)?),
            Some(_) => return Err(Failure::invalid_params("`requestState` must be a string")),
        };
        Ok(Answers { name, responses, round })
    }

    fn state(&self, round: u32) -> String {
        state::sign(self.name, round)
    }

    fn get(&self, key: &str) -> Option<&'a Map<String, Value>> {
        self.responses.and_then(|it| it.get(key)).and_then(Value::as_object)
    }

    /// A text the user has entered, or what the user did instead.
    fn content(&self, key: &str, field: &str) -> Option<&'a str> {
        let answer = self.get(key)?;
        let entered = answer.get("content").and_then(|it| it.get(field)).and_then(Value::as_str);
        entered.or_else(|| answer.get("action").and_then(Value::as_str))
    }

    /// The text of the client's model.
    fn sampled(&self, key: &str) -> Option<&'a str> {
        let answer = self.get(key)?;
        Some(answer.get("content").and_then(|it| it.get("text")).and_then(Value::as_str).unwrap_or("no text"))
    }

    fn roots(&self, key: &str) -> Option<String> {
        let roots = self.get(key)?.get("roots").and_then(Value::as_array)?;
        let uris: Vec<&str> = roots.iter().filter_map(|it| it.get("uri").and_then(Value::as_str)).collect();
        Some(if uris.is_empty() { "none".to_owned() } else { uris.join(", ") })
    }
}

/// A result that asks for more, under these keys.
fn asked(questions: &[(&str, Value)], state: Option<&str>) -> Value {
    let questions: Value = questions.iter().map(|(key, question)| ((*key).to_owned(), question.clone())).collect();
    let mut result = json!({ "resultType": "input_required", "inputRequests": questions });
    if let Some(state) = state {
        result["requestState"] = json!(state);
    }
    result
}

fn elicit(message: &str, field: &str, kind: &str) -> Value {
    let schema = json!({ "type": "object", "properties": { field: { "type": kind } }, "required": [field] });
    json!({ "method": "elicitation/create", "params": { "message": message, "requestedSchema": schema } })
}

fn sample(prompt: &str, max_tokens: u32) -> Value {
    let messages = json!([{ "role": "user", "content": text(prompt) }]);
    json!({ "method": "sampling/createMessage", "params": { "messages": messages, "maxTokens": max_tokens } })
}

fn roots() -> Value {
    json!({ "method": "roots/list", "params": {} })
}
