//! Sessions as text: what a client sends, and what it gets.
//!
//! A line is `at SECONDS fetch ID EPOCH [+PARTITION@OFFSET…] [-PARTITION…] : PARTITION=HIGH_WATERMARK/BYTES…`,
//! the last part being what the partitions that are not at (10, no bytes) show; `!` instead marks an error.

use super::*;
use crate::limits::LEAST_MEMORY_PER_CORE;

struct Client {
    sessions: FetchSessions,
    by_id: bool,
    drawn: u64,
}

impl Client {
    fn new(slots: usize) -> Client {
        let accounts = Accounts::new(LEAST_MEMORY_PER_CORE);
        Client { sessions: FetchSessions::new(slots, Duration::from_secs(120), accounts), by_id: true, drawn: 0 }
    }

    fn key(&self, partition: &str) -> PartitionKey {
        let partition = partition.parse().expect("a number");
        let topic = if self.by_id { TopicKey::Id(Uuid([7; 16])) } else { TopicKey::Name("t".into()) };
        PartitionKey { topic, partition }
    }

    /// Plays one line; the answer is `session: partitions in the answer`, or the error.
    fn line(&mut self, line: &str) -> String {
        let (request, shows) = line.split_once(" :").unwrap_or((line, ""));
        let words: Vec<&str> = request.split_whitespace().collect();
        let now = Instant(words[1].parse::<u64>().expect("seconds") * 1_000_000_000);
        let (session_id, epoch) = (words[3].parse().expect("an id"), words[4].parse().expect("an epoch"));
        let mut opening = Opening { session_id, epoch, by_id: self.by_id, wanted: vec![], forgotten: vec![] };
        for word in &words[5..] {
            if let Some(added) = word.strip_prefix('+') {
                let (partition, offset) = added.split_once('@').expect("an offset");
                let offset = offset.parse().expect("an offset");
                let wanted = Wanted { offset, max_bytes: 1, current_leader_epoch: -1, last_fetched_epoch: -1 };
                opening.wanted.push((self.key(partition), wanted));
            } else {
                opening.forgotten.push(self.key(&word[1..]));
            }
        }
        let fetch = match self.sessions.begin(now, opening) {
            Ok(fetch) => fetch,
            Err(error) => return format!("{error:?}"),
        };
        let shown: Vec<Shown> = fetch.wanted.iter().map(|(key, _)| shown(key.partition, shows)).collect();
        let drawn = &mut self.drawn;
        let random = || {
            *drawn += 1;
            *drawn
        };
        let answer = self.sessions.finish(now, &fetch, &shown, random);
        let told = fetch.wanted.iter().zip(&answer.included).filter(|(_, included)| **included);
        let told: Vec<String> = told.map(|((key, wanted), _)| format!("{}@{}", key.partition, wanted.offset)).collect();
        format!("{}: {}", answer.session_id, told.join(" "))
    }

    fn play(&mut self, script: &[(&str, &str)]) {
        for (line, expected) in script {
            assert_eq!(self.line(line), *expected, "{line}");
        }
    }
}

fn shown(partition: i32, shows: &str) -> Shown {
    let mut shown = Shown { error: ErrorCode::None, high_watermark: 10, log_start_offset: 0, bytes: 0, urgent: false };
    for show in shows.split_whitespace() {
        let (of, what) = show.split_once('=').expect("a partition");
        if of.parse() != Ok(partition) {
            continue;
        }
        match what.split_once('/') {
            Some((high_watermark, bytes)) => {
                shown.high_watermark = high_watermark.parse().expect("an offset");
                shown.bytes = bytes.parse().expect("bytes");
            }
            None => {
                shown = Shown { error: ErrorCode::OffsetOutOfRange, high_watermark: -1, log_start_offset: -1, ..shown }
            }
        }
    }
    shown
}

#[test]
fn only_news_is_told_and_who_gave_records_goes_last() {
    Client::new(10).play(&[
        ("at 0 fetch 0 0 +0@0 +1@0 +2@0", "1: 0@0 1@0 2@0"),
        ("at 0 fetch 1 1", "1: "),
        ("at 0 fetch 1 2 : 0=11/5 1=11/0", "1: 0@0 1@0"),
        // Partition 0 gave records: it is served last now. Unchanged, 1 is not told again.
        ("at 0 fetch 1 3 +0@11 : 0=12/5 1=11/0 2=12/5", "1: 2@0 0@11"),
        ("at 0 fetch 1 4 -1 : 0=13/1 2=13/1", "1: 2@0 0@11"),
        ("at 0 fetch 1 5 : 0=! 2=13/0", "1: 0@11"),
        ("at 0 fetch 1 6 : 0=! 2=13/0", "1: 0@11"),
        // The error goes; the partition is told although nothing else changed since.
        ("at 0 fetch 1 7 : 0=13/0 2=13/0", "1: 0@11"),
        ("at 0 fetch 1 8 : 0=13/0 2=13/0", "1: "),
    ]);
}

#[test]
fn wrong_epochs_and_ids_are_refused_and_leave_the_session_alone() {
    let mut client = Client::new(10);
    client.play(&[
        ("at 0 fetch 0 0 +0@0", "1: 0@0"),
        ("at 0 fetch 1 7", "InvalidFetchSessionEpoch"),
        ("at 0 fetch 12345 3", "FetchSessionIdNotFound"),
        ("at 0 fetch 0 3", "FetchSessionIdNotFound"),
    ]);
    client.by_id = false;
    client.play(&[("at 0 fetch 1 1", "FetchSessionTopicIdError")]);
    client.by_id = true;
    client.play(&[("at 0 fetch 1 1", "1: ")]);
}

#[test]
fn sessions_end_by_epoch_by_forgetting_all_and_by_starting_anew() {
    let mut client = Client::new(10);
    client.play(&[
        ("at 0 fetch 0 -1 +0@0", "0: 0@0"),
        ("at 0 fetch 0 0 +0@0", "1: 0@0"),
        ("at 0 fetch 1 -1", "0: "),
        ("at 0 fetch 1 1", "FetchSessionIdNotFound"),
        ("at 0 fetch 0 0 +0@0", "2: 0@0"),
        ("at 0 fetch 2 1 -0", "0: "),
        ("at 0 fetch 2 2", "FetchSessionIdNotFound"),
        ("at 0 fetch 0 0 +0@0", "3: 0@0"),
        ("at 0 fetch 3 0 +1@0", "4: 1@0"),
        ("at 0 fetch 3 1", "FetchSessionIdNotFound"),
    ]);
    assert_eq!(client.sessions.len(), 1);
}

#[test]
fn a_full_house_evicts_the_idle_and_the_smaller_alone() {
    Client::new(2).play(&[
        ("at 0 fetch 0 0 +0@0 +1@0", "1: 0@0 1@0"),
        ("at 0 fetch 0 0 +0@0", "2: 0@0"),
        // Both are young: the third gets no session.
        ("at 100 fetch 0 0 +0@0 +1@0 +2@0", "0: 0@0 1@0 2@0"),
        ("at 100 fetch 1 1", "1: "),
        ("at 100 fetch 2 1", "2: "),
        // Both are old now but in use: the smaller one gives way to a larger, not to one of its own size.
        ("at 150 fetch 0 0 +0@0", "0: 0@0"),
        ("at 150 fetch 0 0 +0@0 +1@0 +2@0", "3: 0@0 1@0 2@0"),
        ("at 150 fetch 2 2", "FetchSessionIdNotFound"),
        // Session 1 has been idle since 100.
        ("at 221 fetch 0 0 +0@0", "4: 0@0"),
        ("at 221 fetch 1 2", "FetchSessionIdNotFound"),
    ]);
}

#[test]
fn epochs_wrap_to_one() {
    assert_eq!(next_epoch(i32::MAX), 1);
    assert_eq!(next_epoch(FIRST_EPOCH), 1);
}

#[test]
fn sessions_keep_to_their_memory_and_idle_ones_make_room() {
    let accounts = Accounts::new(LEAST_MEMORY_PER_CORE);
    let mut sessions = FetchSessions::new(1000, Duration::from_secs(120), accounts.clone());
    let most = accounts.limit(Class::FetchSessions) / FETCH_SESSION_PARTITION_BYTES;
    let at = |seconds: u64| Instant(seconds * 1_000_000_000);
    let wanted = |partitions: std::ops::Range<usize>| -> Vec<_> {
        let want = Wanted { offset: 0, max_bytes: 1, current_leader_epoch: -1, last_fetched_epoch: -1 };
        let key = |partition| PartitionKey { topic: TopicKey::Id(Uuid([7; 16])), partition: partition as i32 };
        partitions.map(|partition| (key(partition), want)).collect()
    };
    let shown = Shown { error: ErrorCode::None, high_watermark: 0, log_start_offset: 0, bytes: 0, urgent: false };
    let mut drawn = 0;
    let mut open = |sessions: &mut FetchSessions, now, partitions| {
        let opening =
            Opening { session_id: 0, epoch: 0, by_id: true, wanted: wanted(0..partitions), forgotten: vec![] };
        let fetch = sessions.begin(now, opening).expect("a full request is always taken");
        let shown = vec![shown; partitions];
        let draw = || {
            drawn += 1;
            drawn
        };
        sessions.finish(now, &fetch, &shown, draw).session_id
    };
    assert_eq!(open(&mut sessions, at(0), most + 1), NO_SESSION, "not even alone");
    let first = open(&mut sessions, at(0), most / 2);
    assert_ne!(first, NO_SESSION);
    assert_eq!(open(&mut sessions, at(60), most), NO_SESSION, "nobody is idle");
    let second = open(&mut sessions, at(60), most / 4);
    // The first grows to what is left, and is ended by more than that.
    let mut grow = |epoch, partitions: std::ops::Range<usize>| {
        let wanted = wanted(partitions);
        sessions.begin(at(61), Opening { session_id: first, epoch, by_id: true, wanted, forgotten: vec![] }).err()
    };
    assert_eq!(grow(1, most / 2..3 * most / 4), None);
    assert_eq!(grow(2, most..most + most / 4 + 8), Some(ErrorCode::FetchSessionIdNotFound));
    assert!(accounts.used(Class::FetchSessions) <= most / 4 * FETCH_SESSION_PARTITION_BYTES);
    assert_ne!(open(&mut sessions, at(181), most), NO_SESSION, "the second was idle");
    let gone = Opening { session_id: second, epoch: 1, by_id: true, wanted: vec![], forgotten: vec![] };
    assert_eq!(sessions.begin(at(182), gone).err(), Some(ErrorCode::FetchSessionIdNotFound));
    drop(sessions);
    assert_eq!(accounts.used(Class::FetchSessions), 0);
}
