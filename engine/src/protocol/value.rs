//! The keys and values of the coordinators' records: a [`Message`] behind an int16.
//!
//! In a key the int16 is the type of the record, and tells the versions of the two apart no
//! further: every key is of version 0. In a value it is the value's own version. Does not know which
//! type belongs to which topic.

use bytes::Bytes;

use super::decoder::{DecodeError, Decoder};
use super::encoder::{EncodeError, Encoder};
use super::message::{Message, RecordData};

/// The version all keys are of.
const KEY_VERSION: i16 = 0;

/// A record's key.
pub fn encode_key<'a, K: RecordData<'a>>(key: &K) -> Result<Bytes, EncodeError> {
    encode(K::RECORD_TYPE, key, KEY_VERSION)
}

/// A value, or a blob of the consumer protocol, in the version.
pub fn encode_value<'a, V: Message<'a>>(value: &V, version: i16) -> Result<Bytes, EncodeError> {
    encode(version, value, version)
}

fn encode<'a, M: Message<'a>>(prefix: i16, data: &M, version: i16) -> Result<Bytes, EncodeError> {
    let mut e = Encoder::new();
    e.i16(prefix);
    data.encode(&mut e, version);
    e.finish_contiguous()
}

/// The type that a record's key begins with; what follows is for [`decode_key`].
pub fn record_type(key: &[u8]) -> Result<i16, DecodeError> {
    Decoder::new(key).i16()
}

/// A record's key, whose [`record_type`] the caller has found to be that of `K`.
pub fn decode_key<'a, K: RecordData<'a>>(key: &'a [u8]) -> Result<K, DecodeError> {
    let mut d = Decoder::new(key);
    let found = d.i16()?;
    assert_eq!(found, K::RECORD_TYPE, "the caller dispatched on the record type");
    decode_whole(d, KEY_VERSION)
}

/// A value, in the version that it says it is of.
pub fn decode_value<'a, V: Message<'a>>(value: &'a [u8]) -> Result<V, DecodeError> {
    let mut d = Decoder::new(value);
    let version = d.i16()?;
    decode_whole(d, version)
}

fn decode_whole<'a, M: Message<'a>>(mut d: Decoder<'a>, version: i16) -> Result<M, DecodeError> {
    let data = M::decode(&mut d, version)?;
    d.finish()?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Uuid;
    use crate::protocol::data::consumer_group_member_metadata_value::{
        ClassicMemberMetadata, ClassicProtocol, ConsumerGroupMemberMetadataValue,
    };
    use crate::protocol::data::group_metadata_value::{GroupMetadataValue, MemberMetadata};
    use crate::protocol::data::transaction_log_value::{PartitionsSchema, TransactionLogValue};
    use crate::protocol::data::{OffsetCommitKey, OffsetCommitValue};

    /// Holds the encoding against what Kafka 4.1's own classes wrote, and the decoding against that.
    fn golden<'a, V: Message<'a> + PartialEq + std::fmt::Debug>(value: V, version: i16, hex: &str) {
        let bytes = encode_value(&value, version).unwrap();
        let ours: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(ours, hex);
        let bytes: &'a [u8] = Vec::leak(bytes.to_vec());
        assert_eq!(decode_value::<V>(bytes), Ok(value));
    }

    #[test]
    fn a_member_of_both_protocols_is_kept_as_kafka_keeps_it() {
        let member = ConsumerGroupMemberMetadataValue {
            instance_id: Some("i".into()),
            rack_id: None,
            client_id: "c".into(),
            client_host: "/h".into(),
            subscribed_topic_names: vec!["t".into(), "u".into()],
            subscribed_topic_regex: None,
            rebalance_timeout_ms: 300_000,
            server_assignor: Some("uniform".into()),
            classic_member_metadata: None,
        };
        let hex = "00000269000263032f68030274027500000493e008756e69666f726d00";
        golden(member.clone(), 0, hex);
        let range = ClassicProtocol { name: "range".into(), metadata: vec![1, 2].into() };
        let classic = ClassicMemberMetadata { session_timeout_ms: 45_000, supported_protocols: vec![range] };
        let both = ConsumerGroupMemberMetadataValue { classic_member_metadata: Some(classic), ..member };
        let hex = format!("{}010011010000afc8020672616e67650301020000", &hex[..hex.len() - 2]);
        golden(both, 0, &hex);
    }

    #[test]
    fn a_classic_group_is_kept_as_kafka_keeps_it() {
        let member = MemberMetadata {
            member_id: "m".into(),
            group_instance_id: Some("gi".into()),
            client_id: "c".into(),
            client_host: "/h".into(),
            rebalance_timeout: 60_000,
            session_timeout: 10_000,
            subscription: vec![9].into(),
            assignment: vec![].into(),
        };
        let group = GroupMetadataValue {
            protocol_type: "consumer".into(),
            generation: 5,
            protocol: Some("range".into()),
            leader: None,
            current_state_timestamp: 1_700_000_000_000,
            members: vec![member],
        };
        let v3 = "00030008636f6e73756d657200000005000572616e6765ffff0000018bcfe5680000000001\
                  00016d0002676900016300022f680000ea6000002710000000010900000000";
        let v4 = "000409636f6e73756d6572000000050672616e6765000000018bcfe5680002026d03676902\
                  63032f680000ea60000027100209010000";
        golden(group.clone(), 3, v3);
        golden(group, 4, v4);
    }

    #[test]
    fn an_offset_is_kept_as_kafka_keeps_it() {
        let offset = OffsetCommitValue {
            offset: 77,
            leader_epoch: 3,
            metadata: "md".into(),
            commit_timestamp: 1_700_000_000_000,
            ..Default::default()
        };
        let v3 = "0003000000000000004d0000000300026d640000018bcfe56800";
        golden(offset.clone(), 3, v3);
        let topic_id = Uuid((1u128 << 64 | 2).to_be_bytes());
        let v4 = "0004000000000000004d00000003036d640000018bcfe56800010010\
                  00000000000000010000000000000002";
        golden(OffsetCommitValue { topic_id, ..offset }, 4, v4);

        let key = OffsetCommitKey { group: "g".into(), topic: "t".into(), partition: 2 };
        let bytes = encode_key(&key).unwrap();
        assert_eq!(bytes[..], [0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 2]);
        assert_eq!(record_type(&bytes), Ok(1));
        assert_eq!(decode_key(&bytes), Ok(key));
    }

    #[test]
    fn a_transaction_is_kept_as_kafka_keeps_it() {
        let partitions = PartitionsSchema { topic: "t".into(), partition_ids: vec![0, 2] };
        let transaction = TransactionLogValue {
            producer_id: 1000,
            producer_epoch: 4,
            transaction_timeout_ms: 60_000,
            transaction_status: 1,
            transaction_partitions: Some(vec![partitions]),
            transaction_last_update_timestamp_ms: 5,
            transaction_start_timestamp_ms: 6,
            ..Default::default()
        };
        let v0 = "000000000000000003e800040000ea6001000000010001740000000200000000000000020000\
                  0000000000050000000000000006";
        golden(transaction.clone(), 0, v0);
        let transaction = TransactionLogValue {
            previous_producer_id: 999,
            client_transaction_version: 2,
            next_producer_epoch: 7,
            transaction_partitions: None,
            ..transaction
        };
        let v1 = "000100000000000003e800040000ea6001000000000000000005000000000000000603000800\
                  000000000003e70202000203020007";
        golden(transaction, 1, v1);
    }

    #[test]
    fn values_of_unknown_versions_and_with_bytes_too_many_are_refused() {
        let unknown = DecodeError::UnsupportedVersion { name: "OffsetCommitValue", version: 5 };
        assert_eq!(decode_value::<OffsetCommitValue>(&[0, 5, 0]), Err(unknown));
        let long = [0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 2, 9];
        assert_eq!(decode_key::<OffsetCommitKey>(&long), Err(DecodeError::TrailingBytes(1)));
    }
}
