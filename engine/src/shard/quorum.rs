//! The metadata core's task: requests to the controller in, durable records, images out.
//!
//! The invariant: an image is shown, and a reply given, only when all records up to it are durable in the
//! metadata log. One voter so far: durable here is committed. Knows no cores: whoever asked publishes the image
//! to all of them before the replies go out.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::controller::image::ApplyError;
use crate::controller::records::{self, MetadataRecord, RecordError};
use crate::controller::{Controller, ControllerReply, ControllerRequest, MetadataImage, Refusal, Settings};
use crate::io::{Io, Pace};
use crate::log::metadata_log::{Batch, MAX_BATCH_BYTES, MetadataLog, MetadataLogError};
use crate::protocol::ErrorCode;

/// The directory of the metadata log in the data directory. No topic can have such a name.
pub const METADATA_DIRECTORY: &str = "@metadata";
/// Most requests that share one append.
pub const MAX_REQUESTS_PER_COMMIT: usize = 1024;

/// The term of the one voter.
const TERM: i32 = 0;
/// Bytes of records after which a frame of a snapshot is full.
const SNAPSHOT_FRAME_BYTES: usize = 1 << 20;

/// Why the metadata cannot be opened.
#[derive(Debug, Error)]
pub enum QuorumError {
    /// The log.
    #[error(transparent)]
    Log(#[from] MetadataLogError),
    /// What the log holds is no record.
    #[error("the metadata log holds {0}")]
    Record(#[from] RecordError),
    /// What the log holds does not fit together.
    #[error("the metadata log holds {0}")]
    Apply(#[from] ApplyError),
    /// A batch holds another number of records than it says.
    #[error("the metadata log holds a batch at index {index} that says {count} records and has {found}")]
    Count {
        /// The batch's first index.
        index: i64,
        /// What it says.
        count: u32,
        /// What it has.
        found: usize,
    },
    /// The cluster could not be founded.
    #[error("{path}: {source}")]
    Found {
        /// The log's directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The owner of controller and metadata log. One task of one core has it.
pub struct Quorum {
    io: Io,
    controller: Controller,
    log: MetadataLog,
}

impl Quorum {
    /// Opens the metadata of `data_dir`, or founds a new cluster if there is none.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub async fn open(io: Io, data_dir: &Path, settings: Arc<Settings>) -> Result<Quorum, QuorumError> {
        let path = data_dir.join(METADATA_DIRECTORY);
        let (log, recovered) = MetadataLog::open(&io, &path).await?;
        for repair in &recovered.repairs {
            tracing::warn!("{repair}");
        }
        let mut controller = Controller::new(settings);
        for batch in recovered.batches {
            replay(&mut controller, batch, recovered.last_index)?;
        }
        let mut quorum = Quorum { io, controller, log };
        quorum.found().await.map_err(|source| QuorumError::Found { path, source })?;
        Ok(quorum)
    }

    async fn found(&mut self) -> io::Result<()> {
        let io = self.io.clone();
        let records = self.controller.found(&mut || io.random_u64());
        let mut draft = Draft::new(&self.controller);
        draft.add(records);
        self.commit(draft).await
    }

    /// The newest image; all of it is durable.
    pub fn image(&self) -> Arc<MetadataImage> {
        self.controller.image().clone()
    }

    /// Whether the log takes no more: only a restart can tell what is on disk. The node should stop.
    pub fn has_failed(&self) -> bool {
        self.log.has_failed()
    }

    /// Decides one request. The image, if a new one was made, is to be in force on every core before the reply
    /// goes out.
    pub async fn handle(&mut self, request: ControllerRequest) -> (ControllerReply, Option<Arc<MetadataImage>>) {
        let (mut replies, image) = self.handle_all(vec![request]).await;
        (replies.pop().expect("one reply for one request"), image)
    }

    /// Decides requests in their order, each on what those before it leave, with as few appends as they fit in.
    /// One reply for each.
    pub async fn handle_all(
        &mut self,
        requests: Vec<ControllerRequest>,
    ) -> (Vec<ControllerReply>, Option<Arc<MetadataImage>>) {
        let before = self.image();
        let mut replies = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            replies.extend(self.commit_some(&mut requests).await);
        }
        self.compact_if_grown().await;
        let after = self.image();
        let is_new = !Arc::ptr_eq(&before, &after);
        (replies, is_new.then_some(after))
    }

    /// Takes the requests that fit into one append, and commits them.
    async fn commit_some(
        &mut self,
        requests: &mut std::iter::Peekable<std::vec::IntoIter<ControllerRequest>>,
    ) -> Vec<ControllerReply> {
        let io = self.io.clone();
        let pace = Pace::new(&io);
        let mut draft = Draft::new(&self.controller);
        let mut decided = Vec::new();
        while let Some(request) = requests.peek() {
            let (records, reply) = draft.controller.handle(request, &mut || io.random_u64(), &pace).await;
            let bytes = records::encode_all(&records);
            if bytes.len() > MAX_BATCH_BYTES {
                let why = Refusal::new(ErrorCode::PolicyViolation, "The request makes too many changes at once.");
                decided.push((request.refused(&why), requests.next(), false));
                continue;
            }
            if draft.payload.len() + bytes.len() > MAX_BATCH_BYTES || decided.len() == MAX_REQUESTS_PER_COMMIT {
                break;
            }
            let changes = !records.is_empty();
            draft.add_encoded(records, &bytes);
            decided.push((reply, requests.next(), changes));
        }
        match self.commit(draft).await {
            Ok(()) => decided.into_iter().map(|(reply, ..)| reply).collect(),
            Err(error) => {
                let why = refusal_of(&error);
                tracing::error!("the metadata log: {error}");
                let refused = decided.into_iter().map(|(reply, request, changes)| match request {
                    Some(request) if changes => request.refused(&why),
                    _ => reply,
                });
                refused.collect()
            }
        }
    }

    /// Makes the draft durable, then it is the controller.
    async fn commit(&mut self, draft: Draft) -> io::Result<()> {
        let Draft { mut controller, payload, records } = draft;
        if records.is_empty() {
            return Ok(());
        }
        let is_ids_alone = records.iter().all(|record| matches!(record, MetadataRecord::ProducerIds { .. }));
        if planted!(ProducerIdReused) && is_ids_alone {
            self.controller = controller;
            return Ok(());
        }
        let count = u32::try_from(records.len()).expect("a batch's bytes are bounded");
        let last_index = self.log.append(TERM, count, payload.freeze()).await?;
        controller.apply(&[], last_index).expect("no record is refused");
        self.controller = controller;
        Ok(())
    }

    async fn compact_if_grown(&mut self) {
        if self.log.has_failed() || !self.log.wants_compaction() {
            return;
        }
        let snapshot = snapshot_batches(self.controller.image());
        if let Err(error) = self.log.compact(TERM, snapshot).await {
            tracing::warn!("the metadata log could not be compacted: {error}");
        }
    }
}

/// A disk that is full may have room later; anything else ends this broker's part.
fn refusal_of(error: &io::Error) -> Refusal {
    Refusal::new(ErrorCode::KafkaStorageError, format!("The metadata log cannot be written: {error}"))
}

fn replay(controller: &mut Controller, batch: Batch, last_index: i64) -> Result<(), QuorumError> {
    let Batch { index, count, payload, .. } = batch;
    let records = MetadataRecord::decode_all(payload)?;
    if records.len() != count as usize {
        return Err(QuorumError::Count { index, count, found: records.len() });
    }
    Ok(controller.apply(&records, last_index)?)
}

/// An image's records, in frames of a bearable size.
fn snapshot_batches(image: &MetadataImage) -> Vec<(u32, Bytes)> {
    let mut batches = Vec::new();
    let mut payload = BytesMut::new();
    let mut count = 0;
    for record in image.to_records() {
        record.encode(&mut payload);
        count += 1;
        if payload.len() >= SNAPSHOT_FRAME_BYTES {
            batches.push((count, payload.split().freeze()));
            count = 0;
        }
    }
    if count > 0 {
        batches.push((count, payload.freeze()));
    }
    batches
}

/// What the controller will be when its records are durable.
struct Draft {
    controller: Controller,
    payload: BytesMut,
    records: Vec<MetadataRecord>,
}

impl Draft {
    fn new(controller: &Controller) -> Draft {
        Draft { controller: controller.clone(), payload: BytesMut::new(), records: Vec::new() }
    }

    fn add(&mut self, records: Vec<MetadataRecord>) {
        let bytes = records::encode_all(&records);
        self.add_encoded(records, &bytes);
    }

    fn add_encoded(&mut self, records: Vec<MetadataRecord>, bytes: &[u8]) {
        if records.is_empty() {
            return;
        }
        // The offset is not known before the append; nobody sees the draft until then.
        let offset = self.controller.image().offset;
        self.controller.apply(&records, offset).expect("the controller's own records fit its image");
        self.payload.extend_from_slice(bytes);
        self.records.extend(records);
    }
}

#[cfg(test)]
mod tests;
