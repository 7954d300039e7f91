//! Cuts a stream of bytes into frames, however it arrives.
//!
//! Holds: the frames and the error do not depend on how the stream is cut; the bytes handed out are those
//! that came in; an error leaves the buffer as it was. The first byte chooses the pieces, the second the limit.
#![no_main]

use bytes::{Bytes, BytesMut};
use engine::protocol::frame::{FrameError, PREFIX_BYTES, announced_size, next_frame};
use libfuzzer_sys::fuzz_target;

/// The frames of `stream`, what is left, and the error that ended it.
fn cut(stream: &[u8], piece: usize, max: usize) -> (Vec<Bytes>, BytesMut, Option<FrameError>) {
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    let mut error = None;
    for part in stream.chunks(piece) {
        buffer.extend_from_slice(part);
        while error.is_none() {
            let before = buffer.len();
            match next_frame(&mut buffer, max) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(found) => {
                    assert_eq!(buffer.len(), before, "an error takes nothing");
                    assert_eq!(announced_size(&buffer, max), Err(found));
                    error = Some(found);
                }
            }
        }
    }
    (frames, buffer, error)
}

fuzz_target!(|data: &[u8]| {
    let [piece, max, stream @ ..] = data else { return };
    let max = usize::from(*max) * 16;
    let (whole, rest, error) = cut(stream, stream.len().max(1), max);
    let pieces = cut(stream, usize::from(*piece).max(1), max);
    assert_eq!((&whole, &rest, error), (&pieces.0, &pieces.1, pieces.2));
    let handed_out: usize = whole.iter().map(|frame| PREFIX_BYTES + frame.len()).sum();
    assert_eq!(handed_out + rest.len(), stream.len(), "no byte is lost");
    assert!(whole.iter().all(|frame| frame.len() <= max));
});
