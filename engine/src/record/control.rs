//! Transaction markers: the control batches that end a transaction in each of its partitions.
//!
//! A marker is a batch of one record with the transactional and control bits and no sequence
//! number. Key: version i16 = 0, type i16 (0 abort, 1 commit). Value: version i16 = 0, coordinator
//! epoch i32. 78 bytes in all (Kafka's `MemoryRecords.withEndTransactionMarker`).

use thiserror::Error;

use super::batch::{BatchView, NO_SEQUENCE};
use super::builder::BatchBuilder;
use super::compression::Codec;
use super::record::{Malformed, Records};

/// Bytes of the batch that [`end_transaction_marker`] builds.
pub const MARKER_SIZE: usize = 78;

const VERSION: i16 = 0;

/// What a control record says (Kafka's `ControlRecordType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlRecordType {
    /// The producer's transaction was aborted.
    Abort,
    /// The producer's transaction was committed.
    Commit,
    /// Something else: leader changes, snapshot headers, KRaft votes. No effect on transactions.
    Other(i16),
}

impl ControlRecordType {
    fn from_id(id: i16) -> Self {
        match id {
            0 => Self::Abort,
            1 => Self::Commit,
            other => Self::Other(other),
        }
    }

    fn id(self) -> i16 {
        match self {
            Self::Abort => 0,
            Self::Commit => 1,
            Self::Other(id) => id,
        }
    }
}

/// How a transaction ended, as a marker says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndTransactionMarker {
    /// Whether the transaction was committed; if not, aborted.
    pub committed: bool,
    /// The transaction's producer.
    pub producer_id: i64,
    /// Its epoch; under transactions version 2 one more than that of the data (KIP-890).
    pub producer_epoch: i16,
    /// Epoch of the coordinator that decided, which fences older ones.
    pub coordinator_epoch: i32,
}

/// Why a control batch could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ControlError {
    /// The control bit is not set.
    #[error("not a control batch")]
    NotControl,
    /// No record, more than one, or a compressed one.
    #[error("a control batch holds one record, not compressed")]
    NotOneRecord,
    /// The record does not parse.
    #[error(transparent)]
    Record(#[from] Malformed),
    /// A key or value that is missing, too short, or of a negative version.
    #[error("malformed control record")]
    Schema,
}

/// The batch that records a transaction's end, at `timestamp` (ms since 1970). Base offset and
/// leader epoch are set when it is appended.
pub fn end_transaction_marker(marker: &EndTransactionMarker, timestamp: i64) -> Vec<u8> {
    let kind = if marker.committed { ControlRecordType::Commit } else { ControlRecordType::Abort };
    let mut key = [0; 4];
    key[..2].copy_from_slice(&VERSION.to_be_bytes());
    key[2..].copy_from_slice(&kind.id().to_be_bytes());
    let mut value = [0; 6];
    value[..2].copy_from_slice(&VERSION.to_be_bytes());
    value[2..].copy_from_slice(&marker.coordinator_epoch.to_be_bytes());
    let mut builder = BatchBuilder::new()
        .producer(marker.producer_id, marker.producer_epoch, NO_SEQUENCE)
        .transactional(true)
        .control(true);
    builder.append(timestamp, Some(&key), Some(&value), &[]);
    let batch = builder.finish();
    assert_eq!(batch.len(), MARKER_SIZE, "every field has a fixed length");
    batch
}

/// The type of the record in a control batch.
///
/// # Errors
/// The batch is no control batch, or its one record is malformed.
pub fn control_record_type(batch: &BatchView<'_>) -> Result<ControlRecordType, ControlError> {
    control_record(batch).map(|(kind, _)| kind)
}

/// The marker that a control batch holds; `None` if it is a control record of another type.
///
/// # Errors
/// See [`control_record_type`]; also a marker whose value is malformed.
pub fn parse_marker(batch: &BatchView<'_>) -> Result<Option<EndTransactionMarker>, ControlError> {
    let (kind, value) = control_record(batch)?;
    let committed = match kind {
        ControlRecordType::Abort => false,
        ControlRecordType::Commit => true,
        ControlRecordType::Other(_) => return Ok(None),
    };
    let value = value.ok_or(ControlError::Schema)?;
    let (version, rest) = read_i16(value)?;
    let epoch = rest.first_chunk().ok_or(ControlError::Schema)?;
    if version < 0 {
        return Err(ControlError::Schema);
    }
    Ok(Some(EndTransactionMarker {
        committed,
        producer_id: batch.producer_id(),
        producer_epoch: batch.producer_epoch(),
        coordinator_epoch: i32::from_be_bytes(*epoch),
    }))
}

type ControlRecord<'a> = (ControlRecordType, Option<&'a [u8]>);

fn control_record<'a>(batch: &BatchView<'a>) -> Result<ControlRecord<'a>, ControlError> {
    if !batch.attributes().is_control() {
        return Err(ControlError::NotControl);
    }
    if batch.attributes().codec() != Some(Codec::None) || batch.record_count() != 1 {
        return Err(ControlError::NotOneRecord);
    }
    let mut records = Records::new(batch.records_section(), 1);
    let record = records.next().ok_or(ControlError::NotOneRecord)??;
    if let Some(Err(error)) = records.next() {
        return Err(error.into());
    }
    let (version, rest) = read_i16(record.key.ok_or(ControlError::Schema)?)?;
    let (kind, _) = read_i16(rest)?;
    if version < 0 {
        return Err(ControlError::Schema);
    }
    Ok((ControlRecordType::from_id(kind), record.value))
}

/// Later versions may only append fields, so what follows is not looked at.
fn read_i16(bytes: &[u8]) -> Result<(i16, &[u8]), ControlError> {
    let (first, rest) = bytes.split_first_chunk().ok_or(ControlError::Schema)?;
    Ok((i16::from_be_bytes(*first), rest))
}
