//! Group coordinators in the simulated broker: what is told survives power cuts, and whoever waits for a group
//! holds nobody else up.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use engine::io::Io;
use engine::io::sim::{CrashKind, Faults};
use engine::protocol::messages::api_versions::ApiVersionsRequest;
use engine::protocol::messages::create_topics::{CreatableTopic, CreateTopicsRequest, CreateTopicsResponse};
use engine::protocol::messages::find_coordinator::{FindCoordinatorRequest, FindCoordinatorResponse};
use engine::protocol::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse};
use engine::protocol::messages::list_groups::{ListGroupsRequest, ListGroupsResponse};
use engine::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetCommitResponse,
};
use engine::protocol::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponse,
};
use engine::protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse};
use engine::protocol::{ApiKey, ErrorCode};

use cluster::{Cluster, Layout};
use wire::{Connection, Lost};

#[path = "simulation/cluster.rs"]
#[allow(dead_code, reason = "shared with the simulation, which uses more of it")]
mod cluster;
#[path = "simulation/wire.rs"]
#[allow(dead_code, reason = "shared with the simulation, which uses more of it")]
mod wire;

const SHARDS: usize = 2;
/// How long a client pauses that is told to ask again.
const PAUSE: Duration = Duration::from_millis(20);

fn started(seed: u64) -> Cluster {
    let layout = Layout {
        journal_bytes: 64 << 20,
        memory_bytes: 64 << 20,
        settings: BTreeMap::new(),
        past_journal_bytes: None,
        snapshot_after_bytes: None,
    };
    let cluster = Cluster::new(seed, Faults::none(), layout, Rc::default());
    start(&cluster);
    cluster
}

fn start(cluster: &Cluster) {
    cluster.start(SHARDS, false);
    assert!(cluster.world.run_until(Duration::from_secs(60), || cluster.is_ready()), "the broker starts");
}

async fn make_topic(connection: &mut Connection) -> Result<(), Lost> {
    let topic = CreatableTopic { name: "t".into(), num_partitions: 1, replication_factor: 1, ..Default::default() };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 1000, validate_only: false };
    let answer = connection.ask(&request, 7).await?;
    let code = answer.message::<CreateTopicsResponse<'_>>().topics[0].error_code;
    assert!([0, ErrorCode::TopicAlreadyExists.code()].contains(&code), "{code}");
    Ok(())
}

async fn find_coordinator(connection: &mut Connection) -> Result<(), Lost> {
    let request = FindCoordinatorRequest { coordinator_keys: vec!["g".into()], ..Default::default() };
    let answer = connection.ask(&request, 4).await?;
    assert_eq!(answer.message::<FindCoordinatorResponse<'_>>().coordinators[0].error_code, 0);
    Ok(())
}

/// Commits until it is acknowledged; false if it is refused for now.
async fn commit(connection: &mut Connection, offset: i64) -> Result<bool, Lost> {
    let partition =
        OffsetCommitRequestPartition { committed_offset: offset, committed_metadata: None, ..Default::default() };
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        topics: vec![OffsetCommitRequestTopic { name: "t".into(), partitions: vec![partition] }],
        ..Default::default()
    };
    let answer = connection.ask(&request, 8).await?;
    let code = answer.message::<OffsetCommitResponse<'_>>().topics[0].partitions[0].error_code;
    let error = ErrorCode::from_code(code).expect("a code of Kafka's");
    assert!(error == ErrorCode::None || error.retriable(), "{error:?}");
    Ok(error == ErrorCode::None)
}

/// The committed offset, −1 for none; `None` if the coordinator is loading.
async fn fetch(connection: &mut Connection) -> Result<Option<i64>, Lost> {
    let topics = vec![OffsetFetchRequestTopics { name: "t".into(), partition_indexes: vec![0] }];
    let group = OffsetFetchRequestGroup { group_id: "g".into(), topics: Some(topics), ..Default::default() };
    let request = OffsetFetchRequest { groups: vec![group], ..Default::default() };
    let answer = connection.ask(&request, 8).await?;
    let fetched = answer.message::<OffsetFetchResponse<'_>>();
    let loads = fetched.groups[0].error_code == ErrorCode::CoordinatorLoadInProgress.code();
    assert!(loads || fetched.groups[0].error_code == 0);
    Ok((!loads).then(|| fetched.groups[0].topics[0].partitions[0].committed_offset))
}

/// What clients know of the committed offset.
#[derive(Default)]
struct Known {
    /// The last that was sent.
    sent: Cell<i64>,
    /// The greatest that was acknowledged, or that anybody was shown.
    told: Cell<i64>,
}

impl Known {
    fn tell(&self, offset: i64) {
        assert!(offset >= self.told.get(), "{offset} was told after {}", self.told.get());
        assert!(offset <= self.sent.get(), "{offset} was never committed");
        self.told.set(offset);
    }
}

/// Commits growing offsets until the broker is gone.
async fn commit_on(io: Io, address: std::net::SocketAddr, known: Rc<Known>) -> Result<(), Lost> {
    let mut connection = Connection::open(&io, address, 0).await?;
    make_topic(&mut connection).await?;
    find_coordinator(&mut connection).await?;
    loop {
        let next = known.sent.get() + 1;
        known.sent.set(next);
        while !commit(&mut connection, next).await? {
            io.sleep(PAUSE).await;
        }
        known.told.set(known.told.get().max(next));
    }
}

/// Looks at what is committed until the broker is gone.
async fn watch(io: Io, address: std::net::SocketAddr, known: Rc<Known>) -> Result<(), Lost> {
    let mut connection = Connection::open(&io, address, 0).await?;
    loop {
        let told = known.told.get();
        find_coordinator(&mut connection).await?;
        match fetch(&mut connection).await? {
            Some(offset) => {
                assert!(offset.max(0) >= told, "{offset} is shown after {told} was told");
                known.tell(offset.max(known.told.get()));
            }
            None => io.sleep(PAUSE).await,
        }
    }
}

#[test]
fn committed_offsets_that_were_told_survive_power_cuts() {
    let mut commits = 0;
    for seed in 0..12 {
        let cluster = started(seed);
        let known = Rc::new(Known::default());
        for life in 0..4u64 {
            let delay = Duration::from_micros(200_000 + (seed * 7919 + life * 104_729) % 300_000);
            cluster.world.crash_after(cluster.broker, CrashKind::PowerLoss, delay);
            let (address, known) = (cluster.address, known.clone());
            cluster.world.block_on(cluster.clients, move |io| async move {
                let committing = commit_on(io.clone(), address, known.clone());
                let watching = watch(io, address, known);
                let _ = futures_lite::future::zip(committing, watching).await;
            });
            let is_gone = || !cluster.is_running();
            assert!(cluster.world.run_until(Duration::from_secs(60), is_gone), "the power is cut");
            start(&cluster);
        }
        let (address, known) = (cluster.address, known.clone());
        commits += cluster.world.block_on(cluster.clients, move |io| async move {
            let mut connection = Connection::open(&io, address, 0).await.expect("the broker is there");
            loop {
                match fetch(&mut connection).await.expect("the broker is there") {
                    Some(offset) => {
                        known.tell(offset.max(0));
                        return offset;
                    }
                    None => io.sleep(PAUSE).await,
                }
            }
        });
    }
    assert!(commits > 1000, "there was something to lose: {commits}");
}

fn join(member_id: &str) -> JoinGroupRequest<'_> {
    let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: vec![1].into() };
    JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        member_id: member_id.into(),
        protocol_type: "other".into(),
        protocols: vec![protocol],
        ..Default::default()
    }
}

#[test]
fn whoever_waits_for_a_group_holds_nobody_else_up() {
    let cluster = started(99);
    let address = cluster.address;
    cluster.world.block_on(cluster.clients, move |io| async move {
        let work = async {
            let mut member = Connection::open(&io, address, 0).await?;
            let mut other = Connection::open(&io, address, 0).await?;
            find_coordinator(&mut member).await?;
            let named = member.ask(&join(""), 5).await?;
            let named = named.message::<JoinGroupResponse<'_>>();
            assert_eq!(named.error_code, ErrorCode::MemberIdRequired.code());
            let began = io.now();
            // It waits for other members, and what follows on its connection waits too.
            member.send(&join(&named.member_id), 5).await?;
            member.send(&ApiVersionsRequest::default(), 0).await?;
            io.sleep(Duration::from_millis(100)).await;
            let listed = other.ask(&ListGroupsRequest::default(), 4).await?;
            let listed = listed.message::<ListGroupsResponse<'_>>();
            assert_eq!((listed.groups.len(), &*listed.groups[0].group_state), (1, "PreparingRebalance"));
            assert!(io.now().since(began) < Duration::from_secs(1), "another connection does not wait");
            let joined = member.receive(ApiKey::JoinGroup, 5).await?;
            let joined = joined.message::<JoinGroupResponse<'_>>();
            // The coordinator counts whole milliseconds.
            assert!(io.now().since(began) >= Duration::from_millis(2999), "a new group waits for others");
            assert_eq!((joined.error_code, joined.generation_id, joined.members.len()), (0, 1, 1));
            member.receive(ApiKey::ApiVersions, 0).await?;
            let assignment =
                SyncGroupRequestAssignment { member_id: joined.member_id.clone(), assignment: vec![7].into() };
            let sync = SyncGroupRequest {
                group_id: "g".into(),
                generation_id: 1,
                member_id: joined.member_id.clone(),
                assignments: vec![assignment],
                ..Default::default()
            };
            let synced = member.ask(&sync, 3).await?;
            assert_eq!(synced.message::<SyncGroupResponse<'_>>().assignment, vec![7]);
            Ok::<(), Lost>(())
        };
        work.await.expect("the broker answers");
    });
}
