//! Share groups: epochs, partitions as the share coordinators learn of them, offsets, and all of it after a replay.

use super::*;
use crate::coordinator::group::assignor::Assignment;
use crate::coordinator::group::config::ShareGroupConfig;
use crate::coordinator::group::share::offsets::Initialization;
use crate::protocol::messages::alter_share_group_offsets::{
    AlterShareGroupOffsetsRequestPartition, AlterShareGroupOffsetsRequestTopic,
};
use crate::protocol::messages::share_group_heartbeat::{ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse};

const T: Uuid = Uuid([1; 16]);
const U: Uuid = Uuid([2; 16]);

impl Bench {
    fn share(&mut self, request: ShareGroupRequest) -> ShareGroupReply {
        match self.ask(GroupRequest::Share(request)) {
            Reply::Group(GroupReply::Share(reply)) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn share_beat(
        &mut self,
        member: &str,
        epoch: i32,
        topics: &[&str],
    ) -> (ShareGroupHeartbeatResponse<'static>, Option<Initialization>) {
        let names = topics.iter().map(|topic| (*topic).to_owned().into()).collect();
        let request = ShareGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: member.to_owned().into(),
            member_epoch: epoch,
            rack_id: None,
            subscribed_topic_names: (!topics.is_empty()).then_some(names),
        };
        match self.share(ShareGroupRequest::Heartbeat { request, client: Client::default() }) {
            ShareGroupReply::Heartbeat(response, initialization) => (response, initialization),
            other => panic!("{other:?}"),
        }
    }

    /// The epoch after a heartbeat, and the partitions if they are told.
    fn share_epoch(&mut self, member: &str, epoch: i32, topics: &[&str]) -> (i32, Option<usize>) {
        let (response, _) = self.share_beat(member, epoch, topics);
        assert_eq!(error(response.error_code), ErrorCode::None, "{:?}", response.error_message);
        let partitions = response
            .assignment
            .map(|assignment| assignment.topic_partitions.iter().map(|topic| topic.partitions.len()).sum());
        (response.member_epoch, partitions)
    }

    fn share_refused(&mut self, member: &str, epoch: i32, topics: &[&str]) -> ErrorCode {
        let records = self.records();
        let (response, initialization) = self.share_beat(member, epoch, topics);
        assert_eq!((self.records(), initialization), (records, None), "a refusal changes nothing");
        error(response.error_code)
    }

    /// The share coordinators have been told, or not.
    fn initialized(&mut self, initialization: &Initialization, succeeded: bool) {
        let partitions = initialization.partitions.iter();
        let partitions = partitions.map(|(topic, partitions)| (*topic, partitions.keys().copied().collect())).collect();
        let request = ShareGroupRequest::Initialized { group: "g".to_owned(), partitions, succeeded };
        assert_eq!(self.share(request), ShareGroupReply::Done);
    }

    fn known(&mut self) -> Assignment {
        match self.share(ShareGroupRequest::Partitions("g".to_owned())) {
            ShareGroupReply::Partitions(partitions) => partitions,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn members_get_what_the_share_coordinators_know() {
    let mut bench = Bench::new();
    let (joined, initialization) = bench.share_beat("a", 0, &["t"]);
    assert_eq!((error(joined.error_code), joined.member_epoch), (ErrorCode::None, 1));
    assert!(joined.assignment.expect("a join is answered with one").topic_partitions.is_empty());
    let initialization = initialization.expect("they are to be told");
    assert_eq!((initialization.state_epoch, initialization.partitions[&T].len()), (1, 6));
    assert!(initialization.partitions[&T].values().all(|start| *start == -1));
    assert_eq!(bench.share_beat("a", 1, &[]).1, None, "that is under way");
    bench.initialized(&initialization, true);
    assert_eq!(bench.share_epoch("a", 1, &[]), (2, Some(6)));
    assert_eq!(bench.share_epoch("a", 2, &[]), (2, None), "nothing has changed");
    assert_eq!(bench.share_epoch("a", 1, &[]), (2, None), "the last answer may have been lost");
    assert_eq!(bench.share_epoch("b", 0, &["t"]).0, 3);
    bench.restart();
    let (epoch, partitions) = bench.share_epoch("a", 2, &[]);
    assert_eq!(epoch, 3);
    assert!(partitions.is_some_and(|partitions| partitions < 6), "the other has some of them");
    assert_eq!(bench.listed(), [("g".to_owned(), "Stable".to_owned(), "share".to_owned())]);
    bench.pass(45_001);
    assert_eq!(bench.listed(), [("g".to_owned(), "Empty".to_owned(), "share".to_owned())]);
}

#[test]
fn wrong_epochs_and_members_are_refused() {
    let mut bench = Bench::with(GroupConfig {
        share: ShareGroupConfig { max_size: 1, ..GroupConfig::default().share },
        ..GroupConfig::default()
    });
    assert_eq!(bench.share_refused("a", 0, &[]), ErrorCode::InvalidRequest);
    assert_eq!(bench.share_refused("", 0, &["t"]), ErrorCode::InvalidRequest);
    assert_eq!(bench.share_refused("a", -2, &["t"]), ErrorCode::InvalidRequest);
    assert_eq!(bench.share_refused("a", 1, &[]), ErrorCode::GroupIdNotFound);
    assert_eq!(bench.share_refused("a", -1, &[]), ErrorCode::GroupIdNotFound);
    assert!(bench.listed().is_empty(), "nobody has joined");
    bench.share_beat("a", 0, &["t"]);
    assert_eq!(bench.share_refused("a", 2, &[]), ErrorCode::FencedMemberEpoch);
    assert_eq!(bench.share_refused("b", 1, &[]), ErrorCode::GroupMaxSizeReached);
    assert_eq!(bench.share_refused("b", -1, &[]), ErrorCode::UnknownMemberId);
    assert_eq!(bench.commit("g", -1, "", 4), ErrorCode::GroupIdNotFound);
    assert_eq!(bench.delete("g"), ErrorCode::NonEmptyGroup);
    let (left, _) = bench.share_beat("a", -1, &[]);
    assert_eq!((left.error_code, left.member_epoch), (0, -1));
    assert_eq!(bench.delete("g"), ErrorCode::None);
    bench.restart();
    assert!(bench.listed().is_empty());
    // A group of another protocol is none of theirs.
    assert_eq!(bench.commit("g", -1, "", 4), ErrorCode::None);
    assert_eq!(bench.share_refused("a", 0, &["t"]), ErrorCode::GroupIdNotFound);
}

#[test]
fn what_could_not_be_told_is_told_again() {
    let mut bench = Bench::new();
    let first = bench.share_beat("a", 0, &["t", "u"]).1.expect("they are to be told");
    bench.initialized(&first, false);
    let second = bench.share_beat("a", 1, &[]).1.expect("again");
    assert_eq!(first.partitions, second.partitions);
    // Nobody says what became of it: after a while, and after a restart, it is begun anew.
    assert_eq!(bench.share_beat("a", 1, &[]).1, None);
    bench.pass(10_000);
    let third = bench.share_beat("a", 1, &[]).1.expect("after a while");
    bench.restart();
    let fourth = bench.share_beat("a", 1, &[]).1.expect("after a restart");
    assert_eq!(third.partitions, fourth.partitions);
    bench.initialized(&fourth, true);
    assert_eq!(bench.known().keys().copied().collect::<Vec<_>>(), [T, U]);
    // A topic that goes takes what was known of it with it.
    bench.topics = Topics::new([("t".to_owned(), TopicInfo { id: T, partitions: 7 })]);
    bench.step(|coordinator, context| coordinator.topics_changed(context, None));
    assert_eq!(bench.known().keys().copied().collect::<Vec<_>>(), [T]);
    let (_, more) = bench.share_beat("a", 1, &[]);
    assert_eq!(more.expect("one partition is new").partitions, [(T, [(6, -1)].into())].into());
}

#[test]
fn offsets_are_altered_and_forgotten_while_nobody_reads() {
    let mut bench = Bench::new();
    let initialization = bench.share_beat("a", 0, &["t"]).1.expect("they are to be told");
    bench.initialized(&initialization, true);
    let alter = |partition_index, start_offset| {
        let partition = AlterShareGroupOffsetsRequestPartition { partition_index, start_offset };
        let topic = AlterShareGroupOffsetsRequestTopic { topic_name: "t".into(), partitions: vec![partition] };
        ShareGroupRequest::AlterOffsets { group: "g".to_owned(), topics: vec![topic] }
    };
    let delete = |topics: &[&str]| ShareGroupRequest::BeginDeleteOffsets {
        group: "g".to_owned(),
        topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
    };
    let failure = |reply: ShareGroupReply| match reply {
        ShareGroupReply::AlterOffsets(Err(Failure(error, _))) => error,
        ShareGroupReply::BeginDeleteOffsets(Err(Failure(error, _))) => error,
        other => panic!("{other:?}"),
    };
    let reply = bench.share(alter(0, 5));
    assert_eq!(failure(reply), ErrorCode::NonEmptyGroup);
    let reply = bench.share(delete(&["t"]));
    assert_eq!(failure(reply), ErrorCode::NonEmptyGroup);
    bench.share_beat("a", -1, &[]);
    let ShareGroupReply::AlterOffsets(Ok((answers, told))) = bench.share(alter(0, 5)) else { panic!("it is altered") };
    assert_eq!((answers[0].partitions[0].error_code, told.partitions[&T][&0]), (0, 5));
    assert!(told.state_epoch > initialization.state_epoch, "the state is of another life");
    bench.initialized(&told, true);
    assert_eq!(bench.known()[&T].len(), 6);
    let ShareGroupReply::BeginDeleteOffsets(Ok((refused, forgotten))) = bench.share(delete(&["t", "u", "none"])) else {
        panic!("they are deleted")
    };
    assert_eq!((refused.len(), forgotten[&T].len()), (2, 6));
    assert!(bench.known().is_empty());
    bench.restart();
    // It was left half done: who asks again finishes it.
    let ShareGroupReply::BeginDeleteOffsets(Ok((_, again))) = bench.share(delete(&["t"])) else { panic!("again") };
    assert_eq!(again[&T].len(), 6);
    let finish = ShareGroupRequest::FinishDeleteOffsets { group: "g".to_owned(), topics: [T].into() };
    assert_eq!(bench.share(finish), ShareGroupReply::Done);
    let ShareGroupReply::BeginDeleteOffsets(Ok((refused, forgotten))) = bench.share(delete(&["t"])) else {
        panic!("there is nothing")
    };
    assert_eq!((refused.len(), forgotten.len()), (1, 0));
    let begin = bench.share(ShareGroupRequest::BeginDelete(vec!["g".to_owned(), "none".to_owned()]));
    assert_eq!(begin, ShareGroupReply::BeginDelete(vec![Ok(Assignment::new()), Ok(Assignment::new())]));
    assert_eq!(bench.delete("g"), ErrorCode::None);
}
