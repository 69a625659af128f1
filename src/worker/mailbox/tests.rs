//! Mailboxes as their owners see them: what is merged, who is woken, and what a relay gets.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

fn progress(text: &str) -> Note {
    Note::Progress(RawValue::from_string(text.to_owned()).expect("JSON"))
}

fn chunk(bytes: usize) -> Note {
    Note::Chunk(RawValue::from_string("1".repeat(bytes)).expect("JSON"))
}

fn take_all(mailbox: &Mailbox) -> Vec<String> {
    let mut taken = Vec::new();
    while let Wake::Event(Event::Note(tag, note)) = mailbox.wait(Instant::now()) {
        taken.push(match note {
            Note::Progress(text) => format!("{tag} {text}"),
            Note::Chunk(text) => format!("{tag} {} bytes", text.get().len()),
            other => format!("{tag} {other:?}"),
        });
    }
    taken
}

fn limited(note_bytes_max: usize) -> (Mailbox, Arc<AtomicU32>) {
    let cuts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&cuts);
    (
        Mailbox::new(note_bytes_max, move || {
            counted.fetch_add(1, Ordering::SeqCst);
        }),
        cuts,
    )
}

/// Leaves this over of everything.
#[derive(Debug)]
struct Leaves(fn() -> Option<Leftover>);

impl Relay for Leaves {
    fn take(&self, ended: Ended) -> Taken {
        (self.0)().map_or(Taken::Not(ended), Taken::Done)
    }
}

fn end(tag: u64) -> Ended {
    let outcome = Ok(RawValue::from_string(tag.to_string()).expect("JSON"));
    Ended { tag, worker: None, outcome }
}

/// Whether somebody who polls was woken.
fn is_woken(eventfd: &OwnedFd) -> bool {
    rustix::io::read(eventfd, &mut [0; 8]).is_ok()
}

fn polling(mailbox: &Mailbox) -> Arc<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    let eventfd = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd"));
    assert!(mailbox.take_or_arm(&eventfd).is_none());
    eventfd
}

#[test]
fn who_polls_is_woken_for_what_a_relay_leaves_and_for_nothing_else() {
    let mailbox = Mailbox::default();
    for (leftover, wakes) in [
        ((|| Some(Leftover::Nothing)) as fn() -> Option<Leftover>, false),
        (|| Some(Leftover::Bytes(vec![1])), true),
        (|| Some(Leftover::Gone), true),
        (|| None, true),
    ] {
        let tag = mailbox.next_tag();
        mailbox.delegate(tag, Arc::new(Leaves(leftover)));
        let eventfd = polling(&mailbox);
        mailbox.put_end(end(tag));
        assert_eq!(is_woken(&eventfd), wakes);
        match (leftover(), mailbox.take()) {
            (Some(expected), Some(Event::Relayed { tag: it, leftover, .. })) => {
                assert_eq!((it, leftover), (tag, expected));
            }
            (None, Some(Event::Ended(ended))) => assert_eq!(ended.tag, tag),
            other => panic!("{other:?}"),
        }
        assert!(!mailbox.recall(), "it has been taken");
    }
}

#[test]
fn who_polls_for_all_is_woken_for_what_a_relay_has_done_too() {
    let (mailbox, eventfd) = (Mailbox::default(), polling(&Mailbox::default()));
    let tag = mailbox.next_tag();
    mailbox.delegate(tag, Arc::new(Leaves(|| Some(Leftover::Nothing))));
    assert!(mailbox.take_or_arm_for_all(&eventfd).is_none());
    mailbox.put_end(end(tag));
    assert!(is_woken(&eventfd));
    assert!(matches!(mailbox.take_or_arm_for_all(&eventfd), Some(Event::Relayed { .. })));
}

#[test]
fn a_relay_gets_the_end_of_its_own_call_only_and_none_while_its_owner_drains() {
    let mailbox = Mailbox::default();
    let relay = || Arc::new(Leaves(|| Some(Leftover::Nothing)));
    mailbox.delegate(2, relay());
    mailbox.put_end(end(1));
    assert!(matches!(mailbox.take(), Some(Event::Ended(Ended { tag: 1, .. }))), "of an earlier call");
    assert!(mailbox.recall());
    mailbox.put_end(end(2));
    assert!(matches!(mailbox.take(), Some(Event::Ended(Ended { tag: 2, .. }))), "taken back");

    mailbox.delegate(3, relay());
    let eventfd = polling(&mailbox);
    mailbox.drain();
    assert!(is_woken(&eventfd) && matches!(mailbox.take(), Some(Event::Nudge)));
    mailbox.put_end(end(3));
    assert!(matches!(mailbox.take(), Some(Event::Ended(Ended { tag: 3, .. }))));
}

#[test]
fn what_happened_before_the_end_is_told_before_it() {
    let mailbox = Mailbox::new(1000, || {});
    mailbox.delegate(1, Arc::new(Leaves(|| Some(Leftover::Nothing))));
    mailbox.put_note(1, progress("1"));
    mailbox.put_end(end(1));
    mailbox.close();
    assert!(!mailbox.recall(), "it has been passed over");
    assert!(matches!(mailbox.wait_for_next(), Event::Note(1, Note::Progress(_))));
    assert!(matches!(mailbox.wait_for_next(), Event::Ended(Ended { tag: 1, .. })));
}

#[test]
fn a_client_that_keeps_up_loses_nothing() {
    let (mailbox, cuts) = limited(1000);
    for round in 0..100 {
        mailbox.put_note(1, progress(&round.to_string()));
        mailbox.put_note(1, chunk(100));
        assert_eq!(take_all(&mailbox), [format!("1 {round}"), "1 100 bytes".to_owned()]);
    }
    assert_eq!(cuts.load(Ordering::SeqCst), 0);
}

#[test]
fn progress_of_a_client_that_is_behind_is_merged_and_chunks_are_not() {
    let (mailbox, cuts) = limited(1000);
    mailbox.put_note(1, chunk(500));
    for text in ["1", "2", "3"] {
        mailbox.put_note(1, progress(text));
    }
    mailbox.put_note(2, progress("7"));
    mailbox.put_note(1, progress("4"));
    assert_eq!(take_all(&mailbox), ["1 500 bytes", "1 3", "2 7", "1 4"]);
    assert_eq!(cuts.load(Ordering::SeqCst), 0);
}

#[test]
fn a_client_too_far_behind_is_cut_off_once_and_its_ends_still_come() {
    let (mailbox, cuts) = limited(1000);
    mailbox.put_note(1, chunk(500));
    mailbox.put_note(1, chunk(500));
    mailbox.put_note(1, chunk(500));
    mailbox.put_end(Ended { tag: 1, worker: None, outcome: Err(Error::Internal { what: String::new() }) });
    assert_eq!(cuts.load(Ordering::SeqCst), 1);
    assert!(matches!(mailbox.wait(Instant::now()), Wake::Event(Event::Ended(_))));
    assert!(matches!(mailbox.wait(Instant::now()), Wake::Closed));
}

#[test]
fn a_poller_is_woken_by_events_draining_and_the_end() {
    let eventfd = Arc::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap());
    let woken = || rustix::io::read(&*eventfd, &mut [0; 8]).is_ok();
    let mailbox = Mailbox::new(1000, || {});
    let wakers: [&dyn Fn(); 3] = [&|| mailbox.put_note(1, progress("1")), &|| mailbox.drain(), &|| mailbox.close()];
    for wake in wakers {
        while mailbox.take_or_arm(&eventfd).is_some() {}
        assert!(!woken());
        wake();
        assert!(woken());
    }
}

#[test]
fn an_owner_who_serves_others_meanwhile_is_told_what_has_become_of_the_call() {
    let mailbox = Mailbox::new(1000, || {});
    let eventfd = polling(&mailbox);
    // Without a word from a relay unless it asked for one.
    for wants_end in [false, true] {
        mailbox.delegate(1, Arc::new(Leaves(|| Some(Leftover::Nothing))));
        assert_eq!(mailbox.word_of(Some(1), wants_end, &eventfd), Word::None);
        mailbox.put_end(end(1));
        assert_eq!(is_woken(&eventfd), wants_end);
        assert!(matches!(mailbox.word_of(Some(1), wants_end, &eventfd), Word::Relayed(_)));
        assert_eq!(mailbox.word_of(None, wants_end, &eventfd), Word::None, "told once");
    }
    // Whatever has to be seen to stays where it is.
    let left: [fn() -> Option<Leftover>; 3] = [|| None, || Some(Leftover::Gone), || Some(Leftover::Bytes(vec![1]))];
    for relay in left {
        mailbox.delegate(2, Arc::new(Leaves(relay)));
        mailbox.put_end(end(2));
        assert!(is_woken(&eventfd));
        for _ in 0..2 {
            assert_eq!(mailbox.word_of(Some(2), false, &eventfd), Word::Other);
        }
        assert!(mailbox.take().is_some());
        assert_eq!(mailbox.word_of(Some(2), false, &eventfd), Word::None);
    }
    // Of another call than the one that is waited for.
    mailbox.delegate(3, Arc::new(Leaves(|| Some(Leftover::Nothing))));
    mailbox.put_end(end(3));
    assert_eq!(mailbox.word_of(Some(4), false, &eventfd), Word::Other);
    assert!(mailbox.take().is_some());
    let ends: [&dyn Fn(); 2] = [&|| mailbox.drain(), &|| mailbox.close()];
    for end in ends {
        end();
        while mailbox.take().is_some() {}
        assert_eq!(mailbox.word_of(None, false, &eventfd), Word::Other);
    }
}
