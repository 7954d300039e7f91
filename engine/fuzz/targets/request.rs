//! Reads a request, header and body, of any API in any version.
//!
//! Holds: no input panics or takes memory out of proportion to it (the limits that scripts/fuzz.sh sets); what
//! was read can be written, and is then read as the same.
#![no_main]

use engine::protocol::messages::*;
use engine::protocol::{ApiKey, Decoder, Encoder, Message, RequestHeader};
use libfuzzer_sys::fuzz_target;

macro_rules! read_and_write {
    ($type:ident, $decoder:expr, $version:expr) => {{
        let Ok(message) = $type::decode($decoder, $version) else { return };
        let written = write(|e| message.encode(e, $version));
        let mut decoder = Decoder::new(&written);
        let again = $type::decode(&mut decoder, $version).expect("what was written can be read");
        assert_eq!(decoder.finish(), Ok(()), "all that was written is read");
        // The bytes and not the values, because a value may hold a number that is not equal to itself.
        assert_eq!(write(|e| again.encode(e, $version)), written);
    }};
}

fn write(encode: impl FnOnce(&mut Encoder)) -> bytes::Bytes {
    let mut encoder = Encoder::new();
    encode(&mut encoder);
    encoder.finish_contiguous().expect("what was read can be written")
}

/// A function for each API, chosen by a match that the compiler holds against the list of APIs.
macro_rules! apis {
    ($($api:ident => $request:ident;)*) => {
        fn body(api_key: ApiKey, decoder: &mut Decoder<'_>, version: i16) {
            match api_key {
                $(ApiKey::$api => {
                    fn one(decoder: &mut Decoder<'_>, version: i16) {
                        read_and_write!($request, decoder, version);
                    }
                    one(decoder, version);
                })*
            }
        }
    };
}

fuzz_target!(|data: &[u8]| {
    let mut decoder = Decoder::new(data);
    let Ok(header) = RequestHeader::decode(&mut decoder) else { return };
    if header.is_known() {
        let written = write(|e| header.encode(e));
        assert_eq!(RequestHeader::decode(&mut Decoder::new(&written)), Ok(header.clone()));
    }
    body(header.api_key, &mut decoder, header.api_version);
});

apis! {
    Produce => ProduceRequest;
    Fetch => FetchRequest;
    ListOffsets => ListOffsetsRequest;
    Metadata => MetadataRequest;
    OffsetCommit => OffsetCommitRequest;
    OffsetFetch => OffsetFetchRequest;
    FindCoordinator => FindCoordinatorRequest;
    JoinGroup => JoinGroupRequest;
    Heartbeat => HeartbeatRequest;
    LeaveGroup => LeaveGroupRequest;
    SyncGroup => SyncGroupRequest;
    DescribeGroups => DescribeGroupsRequest;
    ListGroups => ListGroupsRequest;
    SaslHandshake => SaslHandshakeRequest;
    ApiVersions => ApiVersionsRequest;
    CreateTopics => CreateTopicsRequest;
    DeleteTopics => DeleteTopicsRequest;
    DeleteRecords => DeleteRecordsRequest;
    InitProducerId => InitProducerIdRequest;
    OffsetForLeaderEpoch => OffsetForLeaderEpochRequest;
    AddPartitionsToTxn => AddPartitionsToTxnRequest;
    AddOffsetsToTxn => AddOffsetsToTxnRequest;
    EndTxn => EndTxnRequest;
    WriteTxnMarkers => WriteTxnMarkersRequest;
    TxnOffsetCommit => TxnOffsetCommitRequest;
    DescribeAcls => DescribeAclsRequest;
    CreateAcls => CreateAclsRequest;
    DeleteAcls => DeleteAclsRequest;
    DescribeConfigs => DescribeConfigsRequest;
    AlterConfigs => AlterConfigsRequest;
    AlterReplicaLogDirs => AlterReplicaLogDirsRequest;
    DescribeLogDirs => DescribeLogDirsRequest;
    SaslAuthenticate => SaslAuthenticateRequest;
    CreatePartitions => CreatePartitionsRequest;
    CreateDelegationToken => CreateDelegationTokenRequest;
    RenewDelegationToken => RenewDelegationTokenRequest;
    ExpireDelegationToken => ExpireDelegationTokenRequest;
    DescribeDelegationToken => DescribeDelegationTokenRequest;
    DeleteGroups => DeleteGroupsRequest;
    ElectLeaders => ElectLeadersRequest;
    IncrementalAlterConfigs => IncrementalAlterConfigsRequest;
    AlterPartitionReassignments => AlterPartitionReassignmentsRequest;
    ListPartitionReassignments => ListPartitionReassignmentsRequest;
    OffsetDelete => OffsetDeleteRequest;
    DescribeClientQuotas => DescribeClientQuotasRequest;
    AlterClientQuotas => AlterClientQuotasRequest;
    DescribeUserScramCredentials => DescribeUserScramCredentialsRequest;
    AlterUserScramCredentials => AlterUserScramCredentialsRequest;
    DescribeQuorum => DescribeQuorumRequest;
    UpdateFeatures => UpdateFeaturesRequest;
    DescribeCluster => DescribeClusterRequest;
    DescribeProducers => DescribeProducersRequest;
    UnregisterBroker => UnregisterBrokerRequest;
    DescribeTransactions => DescribeTransactionsRequest;
    ListTransactions => ListTransactionsRequest;
    ConsumerGroupHeartbeat => ConsumerGroupHeartbeatRequest;
    ConsumerGroupDescribe => ConsumerGroupDescribeRequest;
    GetTelemetrySubscriptions => GetTelemetrySubscriptionsRequest;
    PushTelemetry => PushTelemetryRequest;
    ListConfigResources => ListConfigResourcesRequest;
    DescribeTopicPartitions => DescribeTopicPartitionsRequest;
    ShareGroupHeartbeat => ShareGroupHeartbeatRequest;
    ShareGroupDescribe => ShareGroupDescribeRequest;
    ShareFetch => ShareFetchRequest;
    ShareAcknowledge => ShareAcknowledgeRequest;
    AddRaftVoter => AddRaftVoterRequest;
    RemoveRaftVoter => RemoveRaftVoterRequest;
    InitializeShareGroupState => InitializeShareGroupStateRequest;
    ReadShareGroupState => ReadShareGroupStateRequest;
    WriteShareGroupState => WriteShareGroupStateRequest;
    DeleteShareGroupState => DeleteShareGroupStateRequest;
    ReadShareGroupStateSummary => ReadShareGroupStateSummaryRequest;
    DescribeShareGroupOffsets => DescribeShareGroupOffsetsRequest;
    AlterShareGroupOffsets => AlterShareGroupOffsetsRequest;
    DeleteShareGroupOffsets => DeleteShareGroupOffsetsRequest;
}
