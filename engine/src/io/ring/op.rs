//! The operations of the ring, each with all that the kernel reads and writes on its behalf.
//!
//! The invariant: an entry points only into heap memory that its [`Op`] owns, so that the `Op` may be moved.

use std::ffi::CString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};

use super::target;
use crate::io::buffer::Buffer;

/// An open file, socket or event that operations keep open.
pub(in crate::io) type Descriptor = Rc<dyn AsRawFd>;

/// Most chunks that one send takes; a longer list is sent in several.
pub(in crate::io) const MAX_CHUNKS: usize = 64;

/// One operation and its memory.
pub(in crate::io) enum Op {
    /// Fills `buffer`'s length.
    Read {
        file: Descriptor,
        position: u64,
        buffer: Buffer,
    },
    /// Writes all or a part of `bytes`.
    Write {
        file: Descriptor,
        position: u64,
        bytes: Bytes,
        durable: bool,
    },
    /// fdatasync, or fsync if `metadata`.
    Sync {
        file: Descriptor,
        metadata: bool,
    },
    Allocate {
        file: Descriptor,
        position: u64,
        len: u64,
    },
    /// Gives a new descriptor.
    Open {
        path: CString,
        flags: i32,
    },
    MakeDir {
        path: CString,
    },
    Rename {
        from: CString,
        to: CString,
    },
    Remove {
        path: CString,
        dir: bool,
    },
    /// Gives a new descriptor.
    Accept {
        socket: Descriptor,
        peer: Box<Peer>,
    },
    Connect {
        socket: Descriptor,
        address: Box<Address>,
    },
    /// Fills `buffer`'s spare capacity, with `most` bytes at most; its length stays.
    Receive {
        socket: Descriptor,
        buffer: BytesMut,
        most: usize,
    },
    Send {
        socket: Descriptor,
        chunks: Vec<Bytes>,
        message: Option<Box<Message>>,
    },
    /// Completes when there is something to read.
    Readable {
        event: Descriptor,
    },
}

/// Where the kernel writes an accepted peer's address. An IPv4 address lies where `sin6_flowinfo` is.
pub(in crate::io) struct Peer {
    address: libc::sockaddr_in6,
    len: libc::socklen_t,
}

/// An address for the kernel to read.
pub(in crate::io) enum Address {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

/// The header and the vector of a send of several chunks.
pub(in crate::io) struct Message {
    header: libc::msghdr,
    vector: Vec<libc::iovec>,
}

const EMPTY_V6: libc::sockaddr_in6 = libc::sockaddr_in6 {
    sin6_family: 0,
    sin6_port: 0,
    sin6_flowinfo: 0,
    sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
    sin6_scope_id: 0,
};

impl Peer {
    pub(in crate::io) fn new() -> Box<Peer> {
        Box::new(Peer { address: EMPTY_V6, len: size_of::<libc::sockaddr_in6>() as libc::socklen_t })
    }

    /// The address that the kernel wrote.
    pub(in crate::io) fn address(&self) -> SocketAddr {
        let port = u16::from_be(self.address.sin6_port);
        if i32::from(self.address.sin6_family) == libc::AF_INET {
            let octets = self.address.sin6_flowinfo.to_ne_bytes();
            return SocketAddrV4::new(Ipv4Addr::from(octets), port).into();
        }
        let ip = Ipv6Addr::from(self.address.sin6_addr.s6_addr);
        SocketAddrV6::new(ip, port, self.address.sin6_flowinfo, self.address.sin6_scope_id).into()
    }
}

impl Address {
    pub(in crate::io) fn new(address: SocketAddr) -> Box<Address> {
        Box::new(match address {
            SocketAddr::V4(v4) => Address::V4(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(v6) => Address::V6(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            }),
        })
    }

    fn raw(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        match self {
            Address::V4(v4) => ((v4 as *const libc::sockaddr_in).cast(), size_of::<libc::sockaddr_in>() as u32),
            Address::V6(v6) => ((v6 as *const libc::sockaddr_in6).cast(), size_of::<libc::sockaddr_in6>() as u32),
        }
    }
}

impl Message {
    /// A message of the first [`MAX_CHUNKS`] chunks, whose bytes must stay where they are.
    fn new(chunks: &[Bytes]) -> Box<Message> {
        let part = |chunk: &Bytes| libc::iovec { iov_base: chunk.as_ptr().cast_mut().cast(), iov_len: chunk.len() };
        let mut vector: Vec<_> = chunks.iter().take(MAX_CHUNKS).map(part).collect();
        // SAFETY: a msghdr of zeros is one without address, vector and control data.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = vector.as_mut_ptr();
        header.msg_iovlen = vector.len();
        Box::new(Message { header, vector })
    }
}

impl Op {
    /// A send of `chunks`, at most [`MAX_CHUNKS`] of them.
    pub(in crate::io) fn send(socket: Descriptor, chunks: Vec<Bytes>) -> Op {
        let message = (chunks.len() > 1).then(|| Message::new(&chunks));
        Op::Send { socket, chunks, message }
    }

    /// Whether it may wait for ever: for a peer or an event rather than for a disk.
    pub(super) fn waits_for_peer(&self) -> bool {
        use Op::{Accept, Connect, Readable, Receive, Send};
        matches!(self, Accept { .. } | Connect { .. } | Receive { .. } | Send { .. } | Readable { .. })
    }

    /// Drops an operation that completed after its future was gone, and closes what it opened.
    pub(super) fn discard(self, result: i32) {
        if result >= 0 && matches!(self, Op::Open { .. } | Op::Accept { .. }) {
            // SAFETY: the kernel just gave us this descriptor, and nobody else has seen it.
            drop(unsafe { OwnedFd::from_raw_fd(result) });
        }
    }

    /// The submission. It points into what `self` owns on the heap.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        let here = Fd(libc::AT_FDCWD);
        match self {
            Op::Read { file, position, buffer } => {
                let len = buffer.len() as u32;
                opcode::Read::new(target(&**file), buffer.as_mut_pointer(), len).offset(*position).build()
            }
            Op::Write { file, position, bytes, durable } => {
                let flags = if *durable { libc::RWF_DSYNC } else { 0 };
                let write = opcode::Write::new(target(&**file), bytes.as_ptr(), bytes.len() as u32);
                write.offset(*position).rw_flags(flags).build()
            }
            Op::Sync { file, metadata } => {
                let flags = if *metadata { FsyncFlags::empty() } else { FsyncFlags::DATASYNC };
                opcode::Fsync::new(target(&**file)).flags(flags).build()
            }
            Op::Allocate { file, position, len } => {
                opcode::Fallocate::new(target(&**file), *len).offset(*position).build()
            }
            Op::Open { path, flags } => {
                opcode::OpenAt::new(here, path.as_ptr()).flags(*flags | libc::O_CLOEXEC).mode(0o600).build()
            }
            Op::MakeDir { path } => opcode::MkDirAt::new(here, path.as_ptr()).mode(0o700).build(),
            Op::Rename { from, to } => opcode::RenameAt::new(here, from.as_ptr(), here, to.as_ptr()).build(),
            Op::Remove { path, dir } => {
                let flags = if *dir { libc::AT_REMOVEDIR } else { 0 };
                opcode::UnlinkAt::new(here, path.as_ptr()).flags(flags).build()
            }
            Op::Accept { socket, peer } => {
                let address = (&raw mut peer.address).cast();
                opcode::Accept::new(target(&**socket), address, &raw mut peer.len).flags(libc::SOCK_CLOEXEC).build()
            }
            Op::Connect { socket, address } => {
                let (address, len) = address.raw();
                opcode::Connect::new(target(&**socket), address, len).build()
            }
            Op::Receive { socket, buffer, most } => {
                let spare = buffer.spare_capacity_mut();
                let len = spare.len().min(*most).min(u32::MAX as usize) as u32;
                opcode::Recv::new(target(&**socket), spare.as_mut_ptr().cast(), len).build()
            }
            Op::Send { socket, chunks, message } => send_entry(target(&**socket), chunks, message.as_deref()),
            Op::Readable { event } => opcode::PollAdd::new(target(&**event), libc::POLLIN as u32).build(),
        }
    }
}

/// MSG_WAITALL has the kernel go on after a partial send instead of coming back to us for the rest.
fn send_entry(socket: Fd, chunks: &[Bytes], message: Option<&Message>) -> squeue::Entry {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
    match message {
        Some(message) => {
            debug_assert_eq!(message.header.msg_iov.cast_const(), message.vector.as_ptr());
            opcode::SendMsg::new(socket, &raw const message.header).flags(flags as u32).build()
        }
        None => {
            let chunk = &chunks[0];
            opcode::Send::new(socket, chunk.as_ptr(), chunk.len().min(u32::MAX as usize) as u32).flags(flags).build()
        }
    }
}

/// Adds the `received` bytes that the kernel wrote behind `buffer`'s length to it.
pub(in crate::io) fn extend_received(buffer: &mut BytesMut, received: usize) {
    let len = buffer.len() + received;
    assert!(len <= buffer.capacity(), "the kernel writes no more than it was given room for");
    // SAFETY: the kernel has written these bytes, and they lie within the capacity.
    unsafe { buffer.set_len(len) };
}

/// The descriptor that an [`Op::Open`] or [`Op::Accept`] gave.
pub(in crate::io) fn opened(result: usize) -> OwnedFd {
    // SAFETY: called once, with the result of an operation that makes a descriptor for us alone.
    unsafe { OwnedFd::from_raw_fd(result as i32) }
}
