//! Cuts a stream of bytes into frames: an int32 of size, then as many bytes.
//!
//! Invariant: a frame is handed out once, whole, without its size and without being copied; the
//! buffer then begins behind it. Does not read or write: the caller fills the buffer, and may ask
//! [`announced_size`] what is coming before it reserves memory.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of the size in front of a frame.
pub const PREFIX_BYTES: usize = 4;

/// Why a stream is no stream of frames. There is no way to find the next frame: the connection
/// closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A size below zero.
    #[error("a frame of {0} bytes")]
    Negative(i32),
    /// A size above what the caller allows (`socket.request.max.bytes`).
    #[error("a frame of {size} bytes where {max} are allowed")]
    TooLarge {
        /// The size announced.
        size: usize,
        /// The size allowed.
        max: usize,
    },
}

/// The size of the frame that `buffer` begins with, as soon as its first four bytes are there. The
/// size counts neither those four bytes nor says that the rest has arrived.
pub fn announced_size(buffer: &[u8], max: usize) -> Result<Option<usize>, FrameError> {
    let Some(prefix) = buffer.first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let size = i32::from_be_bytes(*prefix);
    let size = usize::try_from(size).map_err(|_| FrameError::Negative(size))?;
    match size > max {
        true => Err(FrameError::TooLarge { size, max }),
        false => Ok(Some(size)),
    }
}

/// The first frame of `buffer`, if it is there whole; it is cut off without being copied. After an
/// error the buffer is as before.
pub fn next_frame(buffer: &mut BytesMut, max: usize) -> Result<Option<Bytes>, FrameError> {
    let Some(size) = announced_size(buffer, max)? else {
        return Ok(None);
    };
    if buffer.len() - PREFIX_BYTES < size {
        return Ok(None);
    }
    buffer.advance(PREFIX_BYTES);
    Ok(Some(buffer.split_to(size).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let stream = [0, 0, 0, 3, b'a', b'b', b'c', 0, 0, 0, 0, 0, 0, 0, 1, b'd', 0, 0];
        for step in 1..=stream.len() {
            let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
            for part in stream.chunks(step) {
                buffer.extend_from_slice(part);
                while let Some(frame) = next_frame(&mut buffer, 3).unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [&b"abc"[..], b"", b"d"], "in steps of {step}");
            assert_eq!(buffer[..], [0, 0]);
        }
    }

    #[test]
    fn a_frame_shares_the_buffers_memory() {
        let mut buffer = BytesMut::from(&[0, 0, 0, 2, 8, 9][..]);
        let body = buffer[4..].as_ptr();
        assert_eq!(next_frame(&mut buffer, 9).unwrap().unwrap().as_ptr(), body);
    }

    #[test]
    fn sizes_out_of_bounds_are_refused_at_the_fourth_byte() {
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
        assert_eq!(next_frame(&mut buffer, 100), Err(FrameError::Negative(-1)));
        let mut buffer = BytesMut::from(&[0, 0, 0, 101][..]);
        assert_eq!(next_frame(&mut buffer, 100), Err(FrameError::TooLarge { size: 101, max: 100 }));
        assert_eq!(announced_size(&[0, 0, 0, 100], 100), Ok(Some(100)));
        assert_eq!(announced_size(&[0, 0, 0], 100), Ok(None));
    }
}
