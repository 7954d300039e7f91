//! The four codecs of Kafka, as streams whose output is bounded.
//!
//! Invariant: decompressing hostile bytes costs at most the cap in output, a fixed window of
//! memory, and what the codec's own format needs: 4 MiB twice for LZ4, the frame's window (128 MiB
//! at most, touched only as output is produced) for zstd, and 22 times the input for a raw Snappy
//! block, which is the most that Snappy can expand.
//!
//! Formats as the Java client reads and writes them: gzip members; Snappy in the framing of
//! snappy-java ("xerial"), one such stream or several, with a bare block accepted too, as snappy-java
//! does; one LZ4 frame of independent blocks; zstd frames. Garbage behind a gzip member is refused:
//! Java's reader passes over it, other clients' do not, and no client sends it.

use std::io::{self, ErrorKind, Read, Write};

use flate2::bufread::MultiGzDecoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use thiserror::Error;
use zstd::zstd_safe::DCtx;

use super::record::{Malformed, Source};

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy blocks in xerial framing.
    Snappy,
    /// The LZ4 frame format.
    Lz4,
    /// RFC 8878 (KIP-110).
    Zstd,
}

impl Codec {
    /// All codecs, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec of an attribute number (0 to 4).
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id)).copied()
    }

    /// The number in a batch's attributes.
    pub fn id(self) -> u8 {
        self as u8
    }

    /// Kafka's name (`CompressionType.name`): none, gzip, snappy, lz4, zstd.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The codec of a name as in [`Codec::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    /// Kafka's default of `compression.<codec>.level` (KIP-390); 0 where there are no levels.
    pub fn default_level(self) -> i32 {
        match self {
            Self::None | Self::Snappy => 0,
            Self::Gzip => -1,
            Self::Lz4 => 9,
            Self::Zstd => 3,
        }
    }
}

/// Why records do not decompress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CompressionError {
    /// Attribute numbers 5 to 7.
    #[error("unknown compression type")]
    UnknownCodec,
    /// The codec's format is broken, cut short, or followed by something else.
    #[error("failed to decompress {} data", .0.name())]
    Corrupt(Codec),
    /// More output than the caller's cap, in bytes.
    #[error("more than {0} bytes when decompressed")]
    TooLarge(usize),
}

/// Output bytes that one step of decompression produces at most.
const WINDOW: usize = 32 * 1024;
/// Bytes of a buffer that are kept between batches; a larger one is given back.
const RETAINED: usize = 1024 * 1024;
/// Bytes of a zstd context that are kept between batches: the windows of the usual levels fit.
const RETAINED_CONTEXT: usize = 16 * 1024 * 1024;
/// What one block of Snappy may unpack to: it is unpacked at once. Xerial chunks hold 32 KiB; a bare block holds a whole
/// batch, which clients fill before they compress it.
const MAX_SNAPPY_BLOCK: usize = 64 * 1024 * 1024;
/// Snappy's densest element gives 64 bytes for 3.
const SNAPPY_MAX_EXPANSION: usize = 22;

const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER: usize = 16;
/// Bytes that one xerial chunk holds uncompressed (snappy-java's default block size).
const XERIAL_BLOCK: usize = 32 * 1024;

const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
const LZ4_INDEPENDENT_BLOCKS: u8 = 0b0010_0000;

/// Buffers and contexts that decompression reuses: one for each core.
#[derive(Default)]
pub struct Scratch {
    window: Vec<u8>,
    block: Vec<u8>,
    zstd: Option<DCtx<'static>>,
}

impl Scratch {
    /// Empty; memory comes with use.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that the buffers hold on to.
    #[cfg(test)]
    pub(super) fn retained(&self) -> usize {
        self.window.capacity() + self.block.capacity()
    }

    /// Starts to decompress `input`, giving at most `cap` bytes.
    pub(super) fn stream<'a>(
        &'a mut self,
        codec: Codec,
        input: &'a [u8],
        cap: usize,
        copy: Option<Encoder>,
    ) -> Result<Stream<'a>, CompressionError> {
        if self.block.capacity() > RETAINED {
            self.block = Vec::new();
        }
        // A frame with a large window leaves a large context.
        if self.zstd.as_ref().is_some_and(|context| context.sizeof() > RETAINED_CONTEXT) {
            self.zstd = None;
        }
        self.window.resize(WINDOW, 0);
        let decoder = match codec {
            Codec::None => Decoder::Plain(input),
            Codec::Gzip => Decoder::Gzip(MultiGzDecoder::new(input)),
            Codec::Snappy => Decoder::Snappy(SnappyReader::new(input, cap.min(MAX_SNAPPY_BLOCK), &mut self.block)),
            Codec::Lz4 => Decoder::Lz4(Lz4Reader::new(input)?),
            Codec::Zstd => Decoder::Zstd(zstd_reader(&mut self.zstd, input)?),
        };
        Ok(Stream { codec, decoder, window: &mut self.window, at: 0, filled: 0, produced: 0, cap, copy })
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

/// Decompresses all of `input` into `out`, which is cleared first.
///
/// # Errors
/// `input` is not exactly `codec`'s format, or gives more than `cap` bytes. What `out` then holds
/// is of no meaning.
pub fn decompress(
    codec: Codec,
    input: &[u8],
    cap: usize,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    out.clear();
    let mut stream = scratch.stream(codec, input, cap, None)?;
    while stream.fill()? {
        out.extend_from_slice(&stream.window[..stream.filled]);
    }
    Ok(())
}

/// Appends `input`, compressed, to `out`. `level` is the codec's own (see
/// [`Codec::default_level`]); it is clamped to what the codec knows. Snappy has none, and the LZ4
/// encoder used here has only its fast one.
pub fn compress(codec: Codec, level: i32, input: &[u8], out: &mut Vec<u8>) {
    let mut encoder = Encoder::new(codec, level, std::mem::take(out), usize::MAX);
    encoder.write(input);
    *out = encoder.finish().expect("there is no bound on it");
}

/// Compresses what it is given, up to a bound on the result.
pub(super) struct Encoder(Writer);

enum Writer {
    Plain(Bounded),
    Gzip(flate2::write::GzEncoder<Bounded>),
    Snappy { block: Vec<u8>, out: Bounded },
    Lz4(FrameEncoder<Bounded>),
    Zstd(zstd::stream::write::Encoder<'static, Bounded>),
}

const INFALLIBLE: &str = "a write to memory does not fail";

impl Encoder {
    /// Appends to `out`, which becomes `most` bytes long at most.
    pub(super) fn new(codec: Codec, level: i32, out: Vec<u8>, most: usize) -> Self {
        let mut out = Bounded { bytes: out, most, is_over: false };
        Self(match codec {
            Codec::None => Writer::Plain(out),
            Codec::Gzip => {
                let level = match level {
                    0..=9 => flate2::Compression::new(level as u32),
                    _ => flate2::Compression::default(),
                };
                Writer::Gzip(flate2::write::GzEncoder::new(out, level))
            }
            Codec::Snappy => {
                out.put(&XERIAL_MAGIC);
                // Version, and the oldest version that can read it.
                out.put(&1u32.to_be_bytes());
                out.put(&1u32.to_be_bytes());
                Writer::Snappy { block: Vec::with_capacity(XERIAL_BLOCK), out }
            }
            Codec::Lz4 => {
                // 64 KiB independent blocks: Kafka's own choice, and all that its reader accepts
                // without a larger buffer.
                let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
                Writer::Lz4(FrameEncoder::with_frame_info(info, out))
            }
            Codec::Zstd => {
                let encoder = zstd::stream::write::Encoder::new(out, level);
                Writer::Zstd(encoder.expect("zstd clamps the level; it fails for want of memory alone"))
            }
        })
    }

    /// Takes more.
    pub(super) fn write(&mut self, mut input: &[u8]) {
        match &mut self.0 {
            Writer::Plain(out) => out.put(input),
            Writer::Gzip(encoder) => encoder.write_all(input).expect(INFALLIBLE),
            Writer::Lz4(encoder) => encoder.write_all(input).expect(INFALLIBLE),
            Writer::Zstd(encoder) => encoder.write_all(input).expect(INFALLIBLE),
            Writer::Snappy { block, out } => {
                while !input.is_empty() {
                    let (taken, rest) = input.split_at(input.len().min(XERIAL_BLOCK - block.len()));
                    block.extend_from_slice(taken);
                    input = rest;
                    if block.len() == XERIAL_BLOCK {
                        compress_block(block, out);
                    }
                }
            }
        }
    }

    /// All of it; `None` if that is more than the bound.
    pub(super) fn finish(self) -> Option<Vec<u8>> {
        let out = match self.0 {
            Writer::Plain(out) => out,
            Writer::Gzip(encoder) => encoder.finish().expect(INFALLIBLE),
            Writer::Lz4(encoder) => encoder.finish().expect(INFALLIBLE),
            Writer::Zstd(encoder) => encoder.finish().expect(INFALLIBLE),
            Writer::Snappy { mut block, mut out } => {
                if !block.is_empty() {
                    compress_block(&mut block, &mut out);
                }
                out
            }
        };
        (!out.is_over).then_some(out.bytes)
    }
}

fn compress_block(block: &mut Vec<u8>, out: &mut Bounded) {
    let compressed = snap::raw::Encoder::new().compress_vec(block).expect("a block is far below Snappy's bound");
    out.put(&(compressed.len() as u32).to_be_bytes());
    out.put(&compressed);
    block.clear();
}

/// Memory that takes no more than it may hold, and says so.
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
    is_over: bool,
}

impl Bounded {
    fn put(&mut self, bytes: &[u8]) {
        self.is_over |= bytes.len() > self.most.saturating_sub(self.bytes.len());
        if !self.is_over {
            self.bytes.extend_from_slice(bytes);
        }
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decompressed bytes, a window at a time.
pub(super) struct Stream<'a> {
    codec: Codec,
    decoder: Decoder<'a>,
    window: &'a mut [u8],
    at: usize,
    filled: usize,
    produced: usize,
    cap: usize,
    /// Is given all that comes out of the stream.
    copy: Option<Encoder>,
}

impl Stream<'_> {
    /// Replaces the window by the next bytes; false at a proper end.
    fn fill(&mut self) -> Result<bool, CompressionError> {
        let read = match &mut self.decoder {
            Decoder::Plain(reader) => reader.read(self.window),
            Decoder::Gzip(reader) => reader.read(self.window),
            Decoder::Snappy(reader) => reader.read(self.window),
            Decoder::Lz4(reader) => reader.read(self.window),
            Decoder::Zstd(reader) => reader.read(self.window),
        };
        self.at = 0;
        self.filled = read.map_err(|error| match error.kind() {
            ErrorKind::FileTooLarge => CompressionError::TooLarge(self.cap),
            _ => CompressionError::Corrupt(self.codec),
        })?;
        self.produced += self.filled;
        if self.produced > self.cap {
            return Err(CompressionError::TooLarge(self.cap));
        }
        if let Some(copy) = &mut self.copy {
            copy.write(&self.window[..self.filled]);
        }
        Ok(self.filled > 0)
    }

    /// Whether all is read. Finding out also checks the codec's trailer.
    pub(super) fn at_end(&mut self) -> Result<bool, CompressionError> {
        Ok(self.at == self.filled && !self.fill()?)
    }

    /// The encoder that was given all that has come out.
    pub(super) fn into_copy(self) -> Option<Encoder> {
        self.copy
    }

    /// Passes over bytes, as far as the window has them, but over one at least; gives how many were not.
    pub(super) fn pass_some(&mut self, n: u64) -> Result<u64, StreamError> {
        if self.at == self.filled {
            self.refill()?;
        }
        let passed = n.min((self.filled - self.at) as u64);
        self.at += passed as usize;
        Ok(n - passed)
    }

    fn refill(&mut self) -> Result<(), StreamError> {
        if self.fill()? { Ok(()) } else { Err(Malformed::Truncated.into()) }
    }
}

/// Why records do not come out of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

/// Fields are passed over, never gathered, so that the window is all the memory a record needs.
impl Source for Stream<'_> {
    type Bytes = ();
    type Error = StreamError;

    #[inline]
    fn byte(&mut self) -> Result<u8, StreamError> {
        if self.at == self.filled {
            self.refill()?;
        }
        let byte = self.window[self.at];
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    fn take(&mut self, mut n: u64) -> Result<(), StreamError> {
        loop {
            let have = (self.filled - self.at) as u64;
            if n <= have {
                self.at += n as usize;
                return Ok(());
            }
            n -= have;
            self.refill()?;
        }
    }

    #[inline]
    fn position(&self) -> u64 {
        (self.produced - self.filled + self.at) as u64
    }

    #[inline]
    fn since(&self, _position: u64) {}
}

enum Decoder<'a> {
    Plain(&'a [u8]),
    Gzip(MultiGzDecoder<&'a [u8]>),
    Snappy(SnappyReader<'a>),
    Lz4(Lz4Reader<'a>),
    Zstd(zstd::stream::read::Decoder<'a, &'a [u8]>),
}

fn zstd_reader<'a>(
    context: &'a mut Option<DCtx<'static>>,
    input: &'a [u8],
) -> Result<zstd::stream::read::Decoder<'a, &'a [u8]>, CompressionError> {
    // Zstd takes nothing as zero frames; the Java reader fails on it.
    if input.is_empty() {
        return Err(CompressionError::Corrupt(Codec::Zstd));
    }
    let context = context.get_or_insert_with(DCtx::create);
    // The decoder resets the session first, which an earlier batch may have left in its middle.
    Ok(zstd::stream::read::Decoder::with_context(input, context))
}

fn invalid() -> io::Error {
    ErrorKind::InvalidData.into()
}

/// Xerial chunks, each a big-endian length and a Snappy block; or one bare block.
struct SnappyReader<'a> {
    input: &'a [u8],
    framed: bool,
    cap: usize,
    block: &'a mut Vec<u8>,
    at: usize,
}

impl<'a> SnappyReader<'a> {
    fn new(input: &'a [u8], cap: usize, block: &'a mut Vec<u8>) -> Self {
        block.clear();
        let framed = input.len() >= XERIAL_HEADER && input.starts_with(&XERIAL_MAGIC);
        Self { input: if framed { &input[XERIAL_HEADER..] } else { input }, framed, cap, block, at: 0 }
    }

    fn next_block(&mut self) -> io::Result<()> {
        let chunk = if self.framed {
            // One stream may follow another, as snappy-java takes them; no chunk is as long as the magic number says.
            if self.input.len() >= XERIAL_HEADER && self.input.starts_with(&XERIAL_MAGIC) {
                self.input = &self.input[XERIAL_HEADER..];
                return Ok(());
            }
            let (length, rest) = self.input.split_first_chunk().ok_or_else(invalid)?;
            let length = u32::from_be_bytes(*length) as usize;
            let (chunk, rest) = rest.split_at_checked(length).ok_or_else(invalid)?;
            self.input = rest;
            chunk
        } else {
            std::mem::take(&mut self.input)
        };
        let length = snap::raw::decompress_len(chunk).map_err(|_| invalid())?;
        if length / SNAPPY_MAX_EXPANSION > chunk.len() {
            return Err(invalid());
        }
        if length > self.cap {
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.at = 0;
        self.block.resize(length, 0);
        let decoded = snap::raw::Decoder::new().decompress(chunk, self.block);
        decoded.map(drop).map_err(|_| invalid())
    }
}

impl Read for SnappyReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // A loop, because a block may be empty.
        while self.at == self.block.len() {
            if self.input.is_empty() {
                return Ok(0);
            }
            self.next_block()?;
        }
        let n = buf.len().min(self.block.len() - self.at);
        buf[..n].copy_from_slice(&self.block[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// One LZ4 frame, complete, of independent blocks: what Kafka's `Lz4BlockInputStream` accepts.
struct Lz4Reader<'a> {
    decoder: FrameDecoder<Tracked<'a>>,
    ended: bool,
}

impl<'a> Lz4Reader<'a> {
    fn new(input: &'a [u8]) -> Result<Self, CompressionError> {
        let flags = input.strip_prefix(&LZ4_MAGIC).and_then(<[u8]>::first);
        if flags.is_none_or(|flags| flags & LZ4_INDEPENDENT_BLOCKS == 0) {
            return Err(CompressionError::Corrupt(Codec::Lz4));
        }
        Ok(Self { decoder: FrameDecoder::new(Tracked { rest: input, starved: false }), ended: false })
    }
}

impl Read for Lz4Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        let n = self.decoder.read(buf)?;
        if n == 0 {
            // The decoder says the same of an end mark and of input that stops between blocks.
            let input = self.decoder.get_ref();
            if input.starved || !input.rest.is_empty() {
                return Err(invalid());
            }
            self.ended = true;
        }
        Ok(n)
    }
}

/// A slice that remembers that more was asked of it than it had.
struct Tracked<'a> {
    rest: &'a [u8],
    starved: bool,
}

impl Read for Tracked<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.starved |= buf.len() > self.rest.len();
        self.rest.read(buf)
    }
}
