//! The consumer protocol, and the way between the protocols.

use super::*;
use crate::coordinator::group::assignor::Assignment;
use crate::protocol::messages::consumer_group_heartbeat::RequestTopicPartitions;

const T: Uuid = Uuid([1; 16]);

/// A client of the consumer protocol that does what it is told.
#[derive(Debug, Clone, Default)]
struct Consumer {
    id: String,
    instance: Option<String>,
    epoch: i32,
    /// What it has.
    owned: Assignment,
    topics: Vec<String>,
    regex: Option<String>,
    assignor: Option<String>,
}

impl Consumer {
    fn new(id: &str, topics: &[&str]) -> Consumer {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        Consumer { id: id.to_owned(), topics, ..Default::default() }
    }

    fn owns(&self) -> usize {
        self.owned.values().map(BTreeSet::len).sum()
    }

    fn request(&self) -> ConsumerGroupHeartbeatRequest<'static> {
        let partitions = |(topic, partitions): (&Uuid, &BTreeSet<i32>)| RequestTopicPartitions {
            topic_id: *topic,
            partitions: partitions.iter().copied().collect(),
        };
        let joins = self.epoch == 0;
        ConsumerGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: self.id.clone().into(),
            member_epoch: self.epoch,
            instance_id: self.instance.clone().map(Into::into),
            rebalance_timeout_ms: if joins { 60_000 } else { -1 },
            subscribed_topic_names: joins.then(|| self.topics.iter().map(|topic| topic.clone().into()).collect()),
            subscribed_topic_regex: self.regex.clone().filter(|_| joins).map(Into::into),
            server_assignor: self.assignor.clone().map(Into::into),
            topic_partitions: Some(self.owned.iter().map(partitions).collect()),
            ..Default::default()
        }
    }

    /// Gives up first what it is not told to have, and takes the rest.
    fn obey(&mut self, response: &ConsumerGroupHeartbeatResponse<'_>) {
        self.epoch = response.member_epoch;
        if let Some(assignment) = &response.assignment {
            let topics = assignment.topic_partitions.iter();
            self.owned = topics.map(|topic| (topic.topic_id, topic.partitions.iter().copied().collect())).collect();
        }
    }
}

impl Bench {
    fn heartbeat_with(
        &mut self,
        request: ConsumerGroupHeartbeatRequest<'static>,
    ) -> ConsumerGroupHeartbeatResponse<'static> {
        self.heartbeat_of(request, Visible::default())
    }

    fn heartbeat_of(
        &mut self,
        request: ConsumerGroupHeartbeatRequest<'static>,
        visible: Visible,
    ) -> ConsumerGroupHeartbeatResponse<'static> {
        let client = Client { id: "c".to_owned(), host: "/h".to_owned() };
        match self.ask(GroupRequest::ConsumerHeartbeat { request, client, visible }) {
            Reply::Group(GroupReply::ConsumerHeartbeat(response)) => response,
            other => panic!("{other:?}"),
        }
    }

    fn beat(&mut self, consumer: &mut Consumer) -> ErrorCode {
        let response = self.heartbeat_with(consumer.request());
        if response.error_code == 0 {
            consumer.obey(&response);
        }
        error(response.error_code)
    }

    /// Everybody heartbeats until nothing changes.
    fn settle(&mut self, consumers: &mut [&mut Consumer]) {
        for _ in 0..20 {
            for consumer in consumers.iter_mut() {
                assert_eq!(self.beat(consumer), ErrorCode::None);
            }
        }
        assert_eq!(self.listed()[0].1, "Stable");
    }

    fn described(&mut self) -> DescribedConsumerGroup<'static> {
        match self.ask(GroupRequest::ConsumerDescribe(vec!["g".to_owned()])) {
            Reply::Group(GroupReply::ConsumerDescribe(mut groups)) => groups.remove(0),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn partitions_move_when_their_owner_has_given_them_up() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (Consumer::new("a", &["t"]), Consumer::new("b", &["t"]));
    assert_eq!(bench.beat(&mut a), ErrorCode::None);
    assert_eq!((a.epoch, a.owns()), (1, 6));
    assert_eq!(bench.beat(&mut b), ErrorCode::None);
    assert_eq!((b.epoch, b.owns()), (2, 0), "all it is to have is still a's");
    assert_eq!(bench.listed(), [("g".into(), "Reconciling".into(), "consumer".into())]);
    let before = a.owned.clone();
    let told = bench.heartbeat_with(a.request());
    assert_eq!(told.member_epoch, 1, "it stays in its epoch until it has given up");
    let keeps: usize =
        told.assignment.as_ref().expect("news").topic_partitions.iter().map(|t| t.partitions.len()).sum();
    assert_eq!(keeps, 3);
    assert_eq!(bench.beat(&mut b), ErrorCode::None);
    assert_eq!(b.owns(), 0, "a still has them");
    // a's answer was lost: it says once more what it has, and is told again only when that is less.
    let again = bench.heartbeat_with(ConsumerGroupHeartbeatRequest { topic_partitions: None, ..a.request() });
    assert_eq!((again.member_epoch, again.assignment), (1, None));
    a.obey(&told);
    assert_eq!(bench.beat(&mut a), ErrorCode::None);
    assert_eq!(a.epoch, 2);
    assert_eq!(bench.beat(&mut b), ErrorCode::None);
    assert_eq!((a.owns(), b.owns()), (3, 3));
    assert!(a.owned[&T].is_subset(&before[&T]) && a.owned[&T].is_disjoint(&b.owned[&T]));
    assert_eq!(bench.listed()[0].1, "Stable");
    let described = bench.described();
    assert_eq!((described.group_epoch, described.assignment_epoch, &*described.assignor_name), (2, 2, "uniform"));
    assert_eq!(described.members[1].assignment.topic_partitions[0].topic_name, "t");
}

#[test]
fn a_restart_forgets_nothing() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (Consumer::new("a", &["t"]), Consumer::new("b", &["t", "u"]));
    bench.settle(&mut [&mut a, &mut b]);
    assert_eq!(bench.commit("g", b.epoch, "b", 9), ErrorCode::None);
    let before = bench.described();
    bench.restart();
    assert_eq!(bench.described(), before);
    let (owned, epoch, records) = (a.owned.clone(), a.epoch, bench.records());
    assert_eq!(bench.beat(&mut a), ErrorCode::None);
    assert_eq!((a.owned, a.epoch, bench.records()), (owned, epoch, records), "nothing moves");
    assert_eq!(bench.committed("g"), (9, ErrorCode::None));
    // Sessions begin anew, and end.
    bench.pass(46_000);
    assert_eq!(bench.beat(&mut b), ErrorCode::UnknownMemberId);
    assert_eq!(bench.delete("g"), ErrorCode::None);
    bench.restart();
    assert!(bench.listed().is_empty());
}

#[test]
fn members_that_are_wrong_about_their_epoch_are_fenced() {
    let mut bench = Bench::new();
    let mut a = Consumer::new("a", &["t"]);
    bench.settle(&mut [&mut a]);
    let at = |a: &Consumer, epoch| ConsumerGroupHeartbeatRequest { member_epoch: epoch, ..a.request() };
    let request = at(&a, a.epoch + 1);
    assert_eq!(error(bench.heartbeat_with(request).error_code), ErrorCode::FencedMemberEpoch);
    // The answer to its join was lost: it joins once more, with nothing.
    let lost = Consumer::new("a", &["t"]);
    assert_eq!(error(bench.heartbeat_with(lost.request()).error_code), ErrorCode::None);
    let stranger = Consumer { epoch: 1, ..Consumer::new("who", &["t"]) };
    assert_eq!(error(bench.heartbeat_with(stranger.request()).error_code), ErrorCode::UnknownMemberId);
    assert_eq!(bench.commit("g", a.epoch + 1, "a", 1), ErrorCode::StaleMemberEpoch);
    assert_eq!(bench.commit("g", -1, "", 1), ErrorCode::UnknownMemberId);
    let commit = GroupRequest::Commit { request: commit_request("g", a.epoch, "a", 1), version: 8 };
    assert_eq!(bench.ask(commit), Reply::Refused(ErrorCode::UnsupportedVersion));
}

#[test]
fn requests_that_are_wrong_leave_nothing_behind() {
    let mut bench = Bench::new();
    let good = Consumer::new("a", &["t"]).request();
    let cases = [
        (ConsumerGroupHeartbeatRequest { group_id: "".into(), ..good.clone() }, ErrorCode::InvalidRequest),
        (ConsumerGroupHeartbeatRequest { member_id: "".into(), ..good.clone() }, ErrorCode::InvalidRequest),
        (ConsumerGroupHeartbeatRequest { rebalance_timeout_ms: -1, ..good.clone() }, ErrorCode::InvalidRequest),
        (ConsumerGroupHeartbeatRequest { topic_partitions: None, ..good.clone() }, ErrorCode::InvalidRequest),
        (ConsumerGroupHeartbeatRequest { subscribed_topic_names: None, ..good.clone() }, ErrorCode::InvalidRequest),
        (ConsumerGroupHeartbeatRequest { member_epoch: -3, ..good.clone() }, ErrorCode::InvalidRequest),
        (ConsumerGroupHeartbeatRequest { member_epoch: -2, ..good.clone() }, ErrorCode::InvalidRequest),
        (ConsumerGroupHeartbeatRequest { member_epoch: 3, ..good.clone() }, ErrorCode::GroupIdNotFound),
        (
            ConsumerGroupHeartbeatRequest { server_assignor: Some("sticky".into()), ..good.clone() },
            ErrorCode::UnsupportedAssignor,
        ),
        (
            ConsumerGroupHeartbeatRequest { subscribed_topic_regex: Some("t(".into()), ..good.clone() },
            ErrorCode::InvalidRegularExpression,
        ),
        (
            ConsumerGroupHeartbeatRequest { subscribed_topic_regex: Some("t)|(u".into()), ..good },
            ErrorCode::InvalidRegularExpression,
        ),
    ];
    for (request, expected) in cases {
        assert_eq!(error(bench.heartbeat_with(request).error_code), expected);
        assert!(bench.listed().is_empty() && bench.records() == 0, "nothing is left of {expected:?}");
    }
}

#[test]
fn an_expression_follows_the_topics() {
    let mut bench = Bench::new();
    let mut a = Consumer { regex: Some("t|x.*|_+x".to_owned()), ..Consumer::new("a", &[]) };
    bench.settle(&mut [&mut a]);
    assert_eq!(a.owns(), 6);
    let topic = |name: &str, id: u8, partitions| (name.to_owned(), TopicInfo { id: Uuid([id; 16]), partitions });
    bench.topics = Topics::new([topic("t", 1, 6), topic("u", 2, 3), topic("xy", 3, 2), topic("__x", 4, 2)]);
    bench.step(|coordinator, context| coordinator.topics_changed(context, None));
    bench.settle(&mut [&mut a]);
    assert_eq!(a.owns(), 10, "those of the internal topic too");
    bench.restart();
    bench.settle(&mut [&mut a]);
    let (epoch, owns) = (a.epoch, a.owns());
    bench.topics = Topics::new([topic("t", 1, 6), topic("u", 2, 9)]);
    bench.step(|coordinator, context| coordinator.topics_changed(context, None));
    bench.settle(&mut [&mut a]);
    assert_eq!((a.epoch, a.owns(), owns), (epoch + 1, 6, 10));
}

#[test]
fn an_expression_stands_for_topics_that_its_member_may_see() {
    let mut bench = Bench::new();
    let only_u = || Visible::only(|topic| topic == "u");
    let mut a = Consumer { regex: Some(".*".to_owned()), ..Consumer::new("a", &[]) };
    let mut other = Consumer::new("b", &["u"]);
    let beat = |bench: &mut Bench, consumer: &mut Consumer, visible| {
        let response = bench.heartbeat_of(consumer.request(), visible);
        assert_eq!(error(response.error_code), ErrorCode::None);
        consumer.obey(&response);
    };
    beat(&mut bench, &mut a, only_u());
    assert_eq!(a.owns(), 3, "t is not its to see");

    // What it may see is asked again when topics change, and now and then; but only for a member that has the
    // expression, and not at each heartbeat.
    beat(&mut bench, &mut a, Visible::default());
    assert_eq!(a.owns(), 3);
    bench.restart();
    beat(&mut bench, &mut a, only_u());
    beat(&mut bench, &mut other, Visible::only(|_| false));
    bench.settle(&mut [&mut a, &mut other]);
    assert_eq!((a.epoch, a.owns() + other.owns()), (2, 3));
    let late = bench.now_ms + bench.coordinator.config.consumer.regex_refresh_ms;
    while bench.now_ms < late {
        beat(&mut bench, &mut a, Visible::default());
        beat(&mut bench, &mut other, Visible::only(|_| false));
        assert_eq!((a.epoch, a.owns() + other.owns()), (2, 3));
        bench.pass(30_000);
    }
    let records = bench.records();
    beat(&mut bench, &mut other, Visible::only(|_| false));
    assert_eq!(bench.records(), records);
    bench.settle(&mut [&mut a, &mut other]);
    assert_eq!((a.epoch, a.owns() + other.owns()), (3, 9));
    bench.restart();
    for _ in 0..5 {
        beat(&mut bench, &mut a, Visible::only(|_| false));
        beat(&mut bench, &mut other, Visible::default());
    }
    assert_eq!((a.owns(), other.owns()), (0, 3));
}

#[test]
fn a_static_member_comes_back_to_what_it_had() {
    let mut bench = Bench::new();
    let mut a = Consumer { instance: Some("i".to_owned()), ..Consumer::new("a", &["t"]) };
    let mut b = Consumer::new("b", &["t"]);
    bench.settle(&mut [&mut a, &mut b]);
    let mut again = Consumer { instance: Some("i".to_owned()), ..Consumer::new("a2", &["t"]) };
    assert_eq!(bench.beat(&mut again), ErrorCode::UnreleasedInstanceId);
    let left = ConsumerGroupHeartbeatRequest { member_epoch: -2, ..a.request() };
    assert_eq!(bench.heartbeat_with(left).member_epoch, -2);
    let epoch = b.epoch;
    assert_eq!(bench.beat(&mut b), ErrorCode::None);
    assert_eq!((b.epoch, b.owns()), (epoch, 3), "nobody moves");
    assert_eq!(bench.beat(&mut again), ErrorCode::None);
    assert_eq!((again.epoch, &again.owned), (epoch, &a.owned));
    assert_eq!(bench.beat(&mut a), ErrorCode::FencedInstanceId);
    bench.settle(&mut [&mut again, &mut b]);
    bench.restart();
    bench.settle(&mut [&mut again, &mut b]);
}

#[test]
fn whoever_does_not_give_up_in_time_is_out() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (Consumer::new("a", &["t"]), Consumer::new("b", &["t"]));
    bench.beat(&mut a);
    bench.beat(&mut b);
    let stubborn = a.request();
    bench.heartbeat_with(stubborn.clone());
    for _ in 0..14 {
        bench.pass(4_000);
        assert_eq!(error(bench.heartbeat_with(stubborn.clone()).error_code), ErrorCode::None);
        bench.beat(&mut b);
    }
    bench.pass(5_000);
    assert_eq!(error(bench.heartbeat_with(stubborn).error_code), ErrorCode::UnknownMemberId);
    bench.settle(&mut [&mut b]);
    assert_eq!(b.owns(), 6);
}

/// Members come, go, change their minds, lose answers and are slow; the coordinator is restarted. Whatever
/// happens, no partition is with two of them, as they see it.
#[test]
fn without_room_members_live_and_what_is_due_is_put_off() {
    let mut bench = Bench::new();
    let (mut a, mut b) = (Consumer::new("a", &["t"]), Consumer::new("b", &["t"]));
    bench.settle(&mut [&mut a]);
    let records = bench.records();
    bench.has_room = false;
    assert_eq!(bench.beat(&mut a), ErrorCode::None);
    let ticket = bench.send(GroupRequest::ConsumerHeartbeat {
        request: b.request(),
        client: Client::default(),
        visible: Visible::default(),
    });
    assert_eq!(bench.reply(ticket), Some(Reply::Refused(ErrorCode::CoordinatorNotAvailable)));
    assert_eq!(bench.described().members.len(), 1);
    // Its session ends, which must be recorded.
    bench.now_ms += 1_000_000;
    bench.step(GroupCoordinator::tick);
    assert_eq!((bench.described().members.len(), bench.records()), (1, records));
    bench.has_room = true;
    bench.step(GroupCoordinator::tick);
    assert_eq!(bench.described().members.len(), 0);
    bench.settle(&mut [&mut b]);
    assert_eq!(b.owns(), 6);
}

#[test]
fn a_member_that_no_record_can_hold_is_refused() {
    let mut bench = Bench::new();
    let mut a = Consumer::new("a", &["t"]);
    bench.settle(&mut [&mut a]);
    let records = bench.records();
    bench.largest_record = 4_000;
    let fat = Consumer::new("b", &["x".repeat(200).as_str(); 20]);
    assert_eq!(error(bench.heartbeat_with(fat.request()).error_code), ErrorCode::UnknownServerError);
    assert_eq!((bench.described().members.len(), bench.records()), (1, records));
    assert_eq!(bench.beat(&mut a), ErrorCode::None);
}

#[test]
fn no_partition_is_ever_with_two_members() {
    for seed in 0..60 {
        let mut bench = Bench::new();
        bench.bits = seed;
        let mut bits = seed.wrapping_mul(977).wrapping_add(13);
        let mut random = |below: u64| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (bits >> 33) % below
        };
        let mut consumers: Vec<Consumer> = Vec::new();
        for step in 0..400 {
            let one = random(consumers.len().max(1) as u64) as usize;
            match random(20) {
                0 | 1 if consumers.len() < 6 => {
                    let topics: &[&str] = if random(3) == 0 { &["t", "u"] } else { &["t"] };
                    let mut consumer = Consumer::new(&format!("m{step}"), topics);
                    consumer.assignor = (random(4) == 0).then(|| "range".to_owned());
                    consumers.push(consumer);
                }
                2 if !consumers.is_empty() => {
                    let gone = consumers.remove(one);
                    let request = ConsumerGroupHeartbeatRequest { member_epoch: -1, ..gone.request() };
                    bench.heartbeat_with(request);
                }
                3 => bench.restart(),
                4 => bench.pass(random(3_000)),
                5 if !consumers.is_empty() => {
                    // An answer is lost.
                    bench.heartbeat_with(consumers[one].request());
                }
                _ if !consumers.is_empty() => {
                    let response = bench.heartbeat_with(consumers[one].request());
                    match error(response.error_code) {
                        ErrorCode::None => consumers[one].obey(&response),
                        // It is out, stops reading, and would join anew.
                        ErrorCode::FencedMemberEpoch | ErrorCode::UnknownMemberId | ErrorCode::GroupIdNotFound => {
                            let id = format!("{}-again{step}", consumers[one].id);
                            let request =
                                ConsumerGroupHeartbeatRequest { member_epoch: -1, ..consumers[one].request() };
                            bench.heartbeat_with(request);
                            consumers[one] =
                                Consumer { id, epoch: 0, owned: Assignment::new(), ..consumers[one].clone() };
                        }
                        other => panic!("seed {seed}: {other:?}"),
                    }
                }
                _ => {}
            }
            let mut seen = BTreeSet::new();
            for consumer in &consumers {
                for (topic, partitions) in &consumer.owned {
                    for partition in partitions {
                        assert!(seen.insert((*topic, *partition)), "seed {seed}, step {step}: {partition} twice");
                    }
                }
            }
        }
        let mut all: Vec<&mut Consumer> = consumers.iter_mut().collect();
        for _ in 0..30 {
            for consumer in &mut all {
                if bench.beat(consumer) != ErrorCode::None {
                    consumer.id.push_str("-last");
                    consumer.epoch = 0;
                    consumer.owned.clear();
                }
            }
        }
    }
}

#[test]
fn what_is_set_for_a_group_is_told_and_kept() {
    let mut bench = Bench::new();
    let settings = |values: [(&str, &str); 2]| {
        let values = values.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        [("g".to_owned(), values)]
    };
    let names = ["consumer.heartbeat.interval.ms", "consumer.session.timeout.ms"];
    bench.topics.set_group_settings(settings([(names[0], "700"), (names[1], "2000")]));
    let a = Consumer::new("a", &["t"]);
    assert_eq!(bench.heartbeat_with(a.request()).heartbeat_interval_ms, 700);
    bench.pass(2000);
    assert_eq!(bench.listed()[0].1, "Empty");
}

mod migration {
    use super::*;

    /// A subscription to topic "t", version 1, which owns `partitions` of it.
    fn subscription(partitions: &[i32]) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff];
        bytes.extend([0, 0, 0, 1, 0, 1, b't']);
        bytes.extend((partitions.len() as i32).to_be_bytes());
        partitions.iter().for_each(|partition| bytes.extend(partition.to_be_bytes()));
        bytes
    }

    fn assignment(partitions: &[i32]) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0, 0, 0, 1, 0, 1, b't'];
        bytes.extend((partitions.len() as i32).to_be_bytes());
        partitions.iter().for_each(|partition| bytes.extend(partition.to_be_bytes()));
        bytes.extend([0xff; 4]);
        bytes
    }

    fn join(member: &str, partitions: &[i32]) -> GroupRequest {
        let request = JoinGroupRequest {
            group_id: "g".into(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 60_000,
            member_id: member.to_owned().into(),
            protocol_type: "consumer".into(),
            protocols: vec![JoinGroupRequestProtocol {
                name: "range".into(),
                metadata: subscription(partitions).into(),
            }],
            ..Default::default()
        };
        GroupRequest::Join { request, version: 3, client: Client::default() }
    }

    fn sync(member: &str, generation: i32, assignments: &[(&str, Vec<u8>)]) -> GroupRequest {
        let assignment = |(member, assignment): &(&str, Vec<u8>)| SyncGroupRequestAssignment {
            member_id: (*member).to_owned().into(),
            assignment: assignment.clone().into(),
        };
        GroupRequest::Sync(SyncGroupRequest {
            group_id: "g".into(),
            generation_id: generation,
            member_id: member.to_owned().into(),
            assignments: assignments.iter().map(assignment).collect(),
            ..Default::default()
        })
    }

    fn heartbeat(member: &str, generation: i32) -> GroupRequest {
        let (group_id, member_id) = ("g".into(), member.to_owned().into());
        GroupRequest::Heartbeat(HeartbeatRequest {
            group_id,
            generation_id: generation,
            member_id,
            group_instance_id: None,
        })
    }

    fn joined(reply: Reply) -> JoinGroupResponse<'static> {
        match reply {
            Reply::Group(GroupReply::Join(response)) => response,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_group_goes_over_to_the_consumer_protocol_and_back_without_stopping() {
        let mut bench = Bench::new();
        let first = bench.send(join("", &[]));
        bench.pass(3000);
        let classic = joined(bench.reply(first).expect("it has joined")).member_id.into_owned();
        let all = assignment(&[0, 1, 2, 3, 4, 5]);
        bench.ask(sync(&classic, 1, &[(&classic, all)]));
        bench.commit("g", 1, &classic, 4);

        // A consumer comes: the classic member stays, and gives up half when it joins again.
        let mut new = Consumer::new("new", &["t"]);
        assert_eq!(bench.beat(&mut new), ErrorCode::None);
        assert_eq!(bench.listed(), [("g".into(), "Reconciling".into(), "consumer".into())]);
        assert_eq!((new.epoch, new.owns()), (2, 0));
        assert_eq!(bench.committed("g").0, 4);
        let told = Reply::Group(GroupReply::Heartbeat(ErrorCode::RebalanceInProgress));
        assert_eq!(bench.ask(heartbeat(&classic, 1)), told);
        let again = joined(bench.ask(join(&classic, &[0, 1, 2, 3, 4, 5])));
        assert_eq!((again.error_code, again.generation_id), (0, 1), "it has yet to give up");
        let Reply::Group(GroupReply::Sync(synced)) = bench.ask(sync(&classic, 1, &[])) else { panic!("synced") };
        assert_eq!(synced.assignment, assignment(&[0, 1, 2]));
        assert_eq!(bench.ask(heartbeat(&classic, 1)), told, "it joins once more, with what it still has");
        assert_eq!(joined(bench.ask(join(&classic, &[0, 1, 2]))).generation_id, 2);
        let Reply::Group(GroupReply::Sync(synced)) = bench.ask(sync(&classic, 2, &[])) else { panic!("synced") };
        assert_eq!(synced.assignment, assignment(&[0, 1, 2]));
        assert_eq!(bench.ask(heartbeat(&classic, 2)), Reply::Group(GroupReply::Heartbeat(ErrorCode::None)));
        assert_eq!(bench.beat(&mut new), ErrorCode::None);
        assert_eq!(new.owned[&T], [3, 4, 5].into());
        bench.restart();
        assert_eq!(bench.ask(heartbeat(&classic, 2)), Reply::Group(GroupReply::Heartbeat(ErrorCode::None)));

        // The consumer leaves: the group is the classic member's again.
        let leave = ConsumerGroupHeartbeatRequest { member_epoch: -1, ..new.request() };
        assert_eq!(bench.heartbeat_with(leave).error_code, 0);
        assert_eq!(bench.listed(), [("g".into(), "PreparingRebalance".into(), "classic".into())]);
        assert_eq!(bench.ask(heartbeat(&classic, 2)), told, "its generation is known: it gives nothing up");
        let last = joined(bench.ask(join(&classic, &[0, 1, 2])));
        assert_eq!((last.error_code, last.generation_id, &*last.leader), (0, 3, classic.as_str()));
        bench.restart();
        assert_eq!(bench.listed()[0].2, "classic");
        assert_eq!(bench.committed("g").0, 4);
    }

    #[test]
    fn a_group_that_is_no_consumers_group_stays_what_it_is() {
        let mut bench = Bench::new();
        let GroupRequest::Join { mut request, version, client } = join("", &[]) else { panic!("a join") };
        request.protocol_type = "connect".into();
        let ticket = bench.send(GroupRequest::Join { request, version, client });
        bench.pass(3000);
        bench.reply(ticket).expect("it has joined");
        assert_eq!(bench.beat(&mut Consumer::new("new", &["t"])), ErrorCode::GroupIdNotFound);
        assert_eq!(bench.listed()[0].2, "classic");
    }
}
