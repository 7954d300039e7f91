//! The classic protocol.

use super::*;
use crate::protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};

/// A subscription to topic "t" as consumers write it, version 0.
const SUBSCRIPTION: &[u8] = &[0, 0, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff];

fn join_request(member: &str, instance: Option<&str>) -> JoinGroupRequest<'static> {
    let protocol = |name: &'static str| JoinGroupRequestProtocol { name: name.into(), metadata: SUBSCRIPTION.into() };
    JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        member_id: member.to_owned().into(),
        group_instance_id: instance.map(|id| id.to_owned().into()),
        protocol_type: "consumer".into(),
        protocols: vec![protocol("range"), protocol("roundrobin")],
        reason: None,
    }
}

fn client() -> Client {
    Client { id: "c".to_owned(), host: "/h".to_owned() }
}

impl Bench {
    fn join(&mut self, member: &str, instance: Option<&str>) -> Ticket {
        self.join_with(join_request(member, instance), 9)
    }

    fn join_with(&mut self, request: JoinGroupRequest<'static>, version: i16) -> Ticket {
        self.send(GroupRequest::Join { request, version, client: client() })
    }

    fn joined(&mut self, ticket: Ticket) -> JoinGroupResponse<'static> {
        match self.reply(ticket) {
            Some(Reply::Group(GroupReply::Join(response))) => response,
            other => panic!("{other:?}"),
        }
    }

    /// An id for a new member.
    fn id(&mut self) -> String {
        let ticket = self.join("", None);
        let response = self.joined(ticket);
        assert_eq!(error(response.error_code), ErrorCode::MemberIdRequired);
        assert!(response.member_id.starts_with("c-"), "{}", response.member_id);
        response.member_id.into_owned()
    }

    fn sync(&mut self, generation: i32, member: &str, assignments: &[(&str, &[u8])]) -> Ticket {
        let assignment = |(member, assignment): &(&str, &[u8])| SyncGroupRequestAssignment {
            member_id: (*member).to_owned().into(),
            assignment: assignment.to_vec().into(),
        };
        self.send(GroupRequest::Sync(SyncGroupRequest {
            group_id: "g".into(),
            generation_id: generation,
            member_id: member.to_owned().into(),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: assignments.iter().map(assignment).collect(),
            ..Default::default()
        }))
    }

    fn synced(&mut self, ticket: Ticket) -> (ErrorCode, Vec<u8>) {
        match self.reply(ticket) {
            Some(Reply::Group(GroupReply::Sync(response))) => {
                (error(response.error_code), response.assignment.into_owned())
            }
            other => panic!("{other:?}"),
        }
    }

    fn heartbeat(&mut self, generation: i32, member: &str) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: "g".into(),
            generation_id: generation,
            member_id: member.to_owned().into(),
            group_instance_id: None,
        };
        match self.ask(GroupRequest::Heartbeat(request)) {
            Reply::Group(GroupReply::Heartbeat(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, member: &str, instance: Option<&str>) -> ErrorCode {
        let identity = MemberIdentity {
            member_id: member.to_owned().into(),
            group_instance_id: instance.map(|id| id.to_owned().into()),
            reason: None,
        };
        let request = LeaveGroupRequest { group_id: "g".into(), members: vec![identity], ..Default::default() };
        match self.ask(GroupRequest::Leave(request)) {
            Reply::Group(GroupReply::Leave(response)) => error(response.members[0].error_code),
            other => panic!("{other:?}"),
        }
    }

    /// A stable group of two; (leader, follower), generation 1.
    fn two(&mut self) -> (String, String) {
        let (a, b) = (self.id(), self.id());
        let (first, second) = (self.join(&a, None), self.join(&b, None));
        assert!(self.reply(first).is_none(), "a new group waits for others");
        self.pass(3000 + 3000);
        let (first, second) = (self.joined(first), self.joined(second));
        assert_eq!((first.generation_id, second.generation_id), (1, 1));
        assert_eq!((&*first.leader, first.members.len()), (a.as_str(), 2));
        assert_eq!((&*second.leader, second.members.len()), (a.as_str(), 0));
        let waiting = self.sync(1, &b, &[]);
        assert!(self.reply(waiting).is_none(), "a follower waits for the leader");
        let leader = self.sync(1, &a, &[(&a, b"A"), (&b, b"B")]);
        assert_eq!(self.synced(leader), (ErrorCode::None, b"A".to_vec()));
        assert_eq!(self.synced(waiting), (ErrorCode::None, b"B".to_vec()));
        (a, b)
    }
}

#[test]
fn two_members_join_sync_and_live() {
    let mut bench = Bench::new();
    let (a, b) = bench.two();
    for _ in 0..20 {
        bench.pass(5000);
        assert_eq!((bench.heartbeat(1, &a), bench.heartbeat(1, &b)), (ErrorCode::None, ErrorCode::None));
    }
    assert_eq!(bench.heartbeat(0, &a), ErrorCode::IllegalGeneration);
    assert_eq!(bench.heartbeat(1, "who"), ErrorCode::UnknownMemberId);
    let Reply::Group(GroupReply::Describe(groups)) = bench.ask(GroupRequest::Describe(vec!["g".into(), "no".into()]))
    else {
        panic!("groups are described")
    };
    assert_eq!((&*groups[0].group_state, &*groups[0].protocol_data, groups[0].members.len()), ("Stable", "range", 2));
    assert_eq!(groups[0].members[0].member_metadata, SUBSCRIPTION);
    assert_eq!((error(groups[1].error_code), &*groups[1].group_state), (ErrorCode::GroupIdNotFound, "Dead"));
}

#[test]
fn a_leave_and_a_lost_member_make_a_new_generation() {
    let mut bench = Bench::new();
    let (a, b) = bench.two();
    assert_eq!(bench.leave(&b, None), ErrorCode::None);
    assert_eq!(bench.leave(&b, None), ErrorCode::UnknownMemberId);
    assert_eq!(bench.heartbeat(1, &a), ErrorCode::RebalanceInProgress);
    let late = bench.sync(1, &a, &[]);
    assert_eq!(bench.synced(late).0, ErrorCode::RebalanceInProgress);
    let again = bench.join(&a, None);
    assert_eq!(bench.joined(again).generation_id, 2, "all who are left have joined");
    // It does not sync, nor heartbeat: after the rebalance timeout nobody is left.
    bench.pass(60_000);
    assert_eq!(bench.heartbeat(2, &a), ErrorCode::UnknownMemberId);
    assert_eq!(bench.listed(), [("g".into(), "Empty".into(), "classic".into())]);
    assert_eq!(bench.delete("g"), ErrorCode::None);
    assert_eq!(bench.delete("g"), ErrorCode::GroupIdNotFound);
    bench.restart();
    assert!(bench.listed().is_empty());
}

#[test]
fn a_rebalance_goes_on_without_whoever_does_not_join_in_time() {
    let mut bench = Bench::new();
    let (a, b) = bench.two();
    let again = bench.join(&a, None);
    assert!(bench.reply(again).is_none(), "b is waited for");
    bench.pass(9_000);
    assert_eq!(bench.heartbeat(1, &b), ErrorCode::RebalanceInProgress);
    bench.pass(9_000);
    assert!(bench.reply(again).is_none(), "b lives");
    bench.pass(60_000);
    let response = bench.joined(again);
    assert_eq!((response.generation_id, response.members.len()), (2, 1));
    let stale = bench.join(&b, None);
    assert_eq!(error(bench.joined(stale).error_code), ErrorCode::UnknownMemberId);
}

#[test]
fn a_restart_brings_back_the_last_complete_generation() {
    let mut bench = Bench::new();
    let (a, b) = bench.two();
    assert_eq!(bench.commit("g", 1, &a, 42), ErrorCode::None);
    bench.restart();
    assert_eq!((bench.heartbeat(1, &a), bench.heartbeat(1, &b)), (ErrorCode::None, ErrorCode::None));
    let again = bench.sync(1, &b, &[]);
    assert_eq!(bench.synced(again), (ErrorCode::None, b"B".to_vec()));
    assert_eq!(bench.committed("g"), (42, ErrorCode::None));
    // Sessions begin anew, and end.
    bench.pass(10_000);
    assert_eq!(bench.heartbeat(1, &a), ErrorCode::UnknownMemberId);
}

#[test]
fn a_static_member_that_comes_back_takes_its_own_place() {
    let mut bench = Bench::new();
    let first = bench.join("", Some("i"));
    bench.pass(3000);
    let first = bench.joined(first);
    let old = first.member_id.into_owned();
    assert!(old.starts_with("i-"), "{old}");
    let synced = bench.sync(1, &old, &[(&old, b"A")]);
    assert_eq!(bench.synced(synced).1, b"A");
    let records = bench.records();
    let back = bench.join("", Some("i"));
    let back = bench.joined(back);
    assert_eq!((back.generation_id, back.skip_assignment, back.members.len()), (1, true, 1));
    assert_eq!(bench.records(), records + 1, "the new id is kept before it is told");
    let new = back.member_id.into_owned();
    assert_ne!(new, old);
    let mut fenced = join_request(&old, Some("i"));
    fenced.protocols.truncate(1);
    let fenced = bench.join_with(fenced, 9);
    assert_eq!(error(bench.joined(fenced).error_code), ErrorCode::FencedInstanceId);
    assert_eq!(bench.heartbeat(1, &new), ErrorCode::None);
    let synced = bench.sync(1, &new, &[]);
    assert_eq!(bench.synced(synced), (ErrorCode::None, b"A".to_vec()));
    bench.restart();
    assert_eq!(bench.heartbeat(1, &new), ErrorCode::None);
    assert_eq!(bench.leave("", Some("i")), ErrorCode::None);
    assert_eq!(bench.listed()[0].1, "Empty");
}

#[test]
fn joins_that_are_wrong_leave_the_group_as_it_is() {
    let mut bench = Bench::with(GroupConfig { max_size: 2, ..GroupConfig::default() });
    let cases: [(JoinGroupRequest<'static>, ErrorCode); 5] = [
        (JoinGroupRequest { group_id: "".into(), ..join_request("", None) }, ErrorCode::InvalidGroupId),
        (JoinGroupRequest { session_timeout_ms: 5999, ..join_request("", None) }, ErrorCode::InvalidSessionTimeout),
        (join_request("who", None), ErrorCode::UnknownMemberId),
        (JoinGroupRequest { protocols: Vec::new(), ..join_request("", None) }, ErrorCode::InconsistentGroupProtocol),
        (JoinGroupRequest { protocol_type: "".into(), ..join_request("", None) }, ErrorCode::InconsistentGroupProtocol),
    ];
    for (request, expected) in cases {
        let ticket = bench.join_with(request, 9);
        assert_eq!(error(bench.joined(ticket).error_code), expected);
        assert!(bench.listed().is_empty(), "no group is left behind by {expected:?}");
    }
    bench.two();
    let records = bench.records();
    let connect = JoinGroupRequest { protocol_type: "connect".into(), ..join_request("", None) };
    let ticket = bench.join_with(connect, 9);
    // The size is looked at first.
    assert_eq!(error(bench.joined(ticket).error_code), ErrorCode::GroupMaxSizeReached);
    assert_eq!((bench.records(), &*bench.listed()[0].1), (records, "Stable"));
}

#[test]
fn an_id_that_nobody_uses_lapses() {
    let mut bench = Bench::new();
    let id = bench.id();
    assert_eq!(bench.listed().len(), 1);
    bench.pass(10_000);
    assert!(bench.listed().is_empty());
    let late = bench.join(&id, None);
    assert_eq!(error(bench.joined(late).error_code), ErrorCode::UnknownMemberId);
}

#[test]
fn commits_follow_the_generation() {
    let mut bench = Bench::new();
    assert_eq!(bench.commit("g", 3, "m", 1), ErrorCode::GroupIdNotFound);
    let request = GroupRequest::Commit { request: commit_request("g", 3, "m", 1), version: 8 };
    assert_eq!(bench.ask(request), Reply::Refused(ErrorCode::IllegalGeneration));
    assert_eq!(bench.commit("g", -1, "", 7), ErrorCode::None, "a group without members takes anybody's");
    let (a, b) = bench.two();
    assert_eq!(bench.committed("g"), (7, ErrorCode::None));
    assert_eq!(bench.commit("g", -1, "", 8), ErrorCode::UnknownMemberId);
    assert_eq!(bench.commit("g", 0, &a, 8), ErrorCode::IllegalGeneration);
    assert_eq!(bench.commit("g", 1, "who", 8), ErrorCode::UnknownMemberId);
    let _waiting = bench.join(&a, None);
    assert_eq!(bench.commit("g", 1, &b, 9), ErrorCode::None, "a member may commit while others join");
    let _waiting = bench.join(&b, None);
    assert_eq!(bench.commit("g", 2, &b, 10), ErrorCode::RebalanceInProgress);
    assert_eq!(bench.committed("g"), (9, ErrorCode::None));
}

#[test]
fn metadata_is_as_long_as_java_counts_it() {
    let mut bench = Bench::new();
    // A character outside of the basic plane is two units.
    for (character, most) in [("m", 4096), ("é", 4096), ("語", 4096), ("😀", 2048)] {
        for (length, error_code) in [(most, ErrorCode::None), (most + 1, ErrorCode::OffsetMetadataTooLarge)] {
            let metadata = character.repeat(length);
            let mut request = commit_request("h", -1, "", 1);
            request.topics[0].partitions[0].committed_metadata = Some(metadata.clone().into());
            let Reply::Group(GroupReply::Commit(response)) = bench.ask(GroupRequest::Commit { request, version: 9 })
            else {
                panic!("each partition has an answer")
            };
            assert_eq!(error(response.topics[0].partitions[0].error_code), error_code, "{length} of {character}");

            let partition = TxnOffsetCommitRequestPartition {
                committed_offset: 1,
                committed_metadata: Some(metadata.into()),
                ..Default::default()
            };
            let topic = TxnOffsetCommitRequestTopic { name: "t".into(), partitions: vec![partition] };
            let request = TxnOffsetCommitRequest {
                transactional_id: "x".into(),
                group_id: "h".into(),
                producer_id: 1,
                topics: vec![topic],
                ..Default::default()
            };
            let Reply::Group(GroupReply::CommitInTransaction(response)) =
                bench.ask(GroupRequest::CommitInTransaction(request))
            else {
                panic!("each partition has an answer")
            };
            assert_eq!(error(response.topics[0].partitions[0].error_code), error_code, "{length} of {character}");
        }
    }
}

#[test]
fn offsets_are_deleted_one_by_one_unless_somebody_reads_the_topic() {
    let mut bench = Bench::new();
    let request = |group: &str| {
        let partitions = vec![OffsetDeleteRequestPartition { partition_index: 0 }];
        let topics = vec![OffsetDeleteRequestTopic { name: "t".into(), partitions }];
        GroupRequest::DeleteOffsets(OffsetDeleteRequest { group_id: group.to_owned().into(), topics })
    };
    let deleted = |reply| match reply {
        Reply::Group(GroupReply::DeleteOffsets(response)) => error(response.topics[0].partitions[0].error_code),
        Reply::Refused(error) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(deleted(bench.ask(request("g"))), ErrorCode::GroupIdNotFound);
    let (a, _) = bench.two();
    bench.commit("g", 1, &a, 5);
    assert_eq!(deleted(bench.ask(request("g"))), ErrorCode::GroupSubscribedToTopic);
    assert_eq!(bench.committed("g").0, 5);
    bench.commit("h", -1, "", 5);
    assert_eq!(deleted(bench.ask(request("h"))), ErrorCode::None);
    assert_eq!(bench.committed("h").0, -1);
    assert_eq!(bench.delete("g"), ErrorCode::NonEmptyGroup);
}

#[test]
fn offsets_expire_when_nobody_is_there_for_long() {
    let config = GroupConfig { retention_ms: 1_000_000, ..GroupConfig::default() };
    let mut bench = Bench::with(config);
    let (a, b) = bench.two();
    bench.commit("g", 1, &a, 5);
    bench.commit("simple", -1, "", 6);
    for _ in 0..400 {
        bench.pass(5000);
        bench.heartbeat(1, &a);
        bench.heartbeat(1, &b);
    }
    assert_eq!((bench.committed("g").0, bench.committed("simple").0), (5, -1), "whoever reads keeps its offsets");
    assert_eq!(bench.listed().len(), 1, "a group that had nothing else is gone");
    bench.pass(2_000_000);
    assert_eq!(bench.committed("g").0, -1);
    bench.restart();
    assert!(bench.listed().is_empty());
}

#[test]
fn offsets_of_a_topic_go_with_it() {
    let mut bench = Bench::new();
    bench.commit("g", -1, "", 5);
    bench.topics = Topics::default();
    bench.step(|coordinator, context| coordinator.topics_changed(context, None));
    assert_eq!(bench.committed("g").0, -1);
    bench.restart();
    assert_eq!(bench.committed("g").0, -1);
}

#[test]
fn a_group_that_no_record_can_hold_goes_on_without_it() {
    let mut bench = Bench::new();
    let (leader, follower) = bench.two();
    let records = bench.records();
    bench.largest_record = 4_000;
    let rejoin = |member: &str, len: usize| {
        let mut request = join_request(member, None);
        request.protocols[0].metadata = vec![0; len].into();
        request
    };
    let first = bench.join_with(rejoin(&leader, 5_000), 9);
    let second = bench.join(&follower, None);
    let generation = bench.joined(first).generation_id;
    bench.joined(second);
    let (second, first) = (bench.sync(generation, &follower, &[]), bench.sync(generation, &leader, &[(&leader, b"a")]));
    assert_eq!(bench.synced(first).0, ErrorCode::UnknownServerError);
    assert_eq!(bench.synced(second).0, ErrorCode::UnknownServerError);
    assert_eq!(bench.records(), records, "nothing is recorded");
    // The members join again, with less.
    let (first, second) = (bench.join_with(rejoin(&leader, 500), 9), bench.join(&follower, None));
    let generation = bench.joined(first).generation_id;
    bench.joined(second);
    let first = bench.sync(generation, &leader, &[(&leader, b"a")]);
    assert_eq!(bench.synced(first), (ErrorCode::None, b"a".to_vec()));
    assert_eq!(bench.records(), records + 1);
}

#[test]
fn without_room_members_live_and_what_needs_a_record_is_refused_and_leaves_nothing() {
    let mut bench = Bench::new();
    let (leader, follower) = bench.two();
    assert_eq!(bench.commit("g", 1, &leader, 7), ErrorCode::None);
    let records = bench.records();
    bench.has_room = false;
    bench.pass(5_000);
    assert_eq!(bench.heartbeat(1, &leader), ErrorCode::None);
    assert_eq!(bench.committed("g"), (7, ErrorCode::None));
    assert_eq!(bench.commit("g", 1, &leader, 8), ErrorCode::CoordinatorNotAvailable);
    assert_eq!(bench.commit("other", -1, "", 8), ErrorCode::CoordinatorNotAvailable);
    assert_eq!(bench.listed().len(), 1, "no group is left of what was refused");
    // A rebalance needs no record until its leader syncs.
    assert_eq!(bench.leave(&follower, None), ErrorCode::None);
    assert_eq!(bench.heartbeat(1, &leader), ErrorCode::RebalanceInProgress);
    let joined = bench.join(&leader, None);
    let generation = bench.joined(joined).generation_id;
    let request = bench.sync(generation, &leader, &[(&leader, b"x")]);
    assert_eq!(bench.reply(request), Some(Reply::Refused(ErrorCode::CoordinatorNotAvailable)));
    assert_eq!(bench.records(), records);
    bench.has_room = true;
    let request = bench.sync(generation, &leader, &[(&leader, b"x")]);
    assert_eq!(bench.synced(request), (ErrorCode::None, b"x".to_vec()));
    assert_eq!(bench.commit("g", generation, &leader, 8), ErrorCode::None);
    bench.restart();
    assert_eq!(bench.committed("g"), (8, ErrorCode::None));
}
