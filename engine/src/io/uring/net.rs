//! Listeners and streams (TCP, without Nagle's delay).

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::{Core, descriptor};
use crate::io::ring::op::{self, Address, MAX_CHUNKS, Op, Peer};
use crate::io::ring::system;

/// A listening socket.
pub struct UringListener {
    core: Rc<Core>,
    socket: Rc<TcpListener>,
    address: SocketAddr,
}

/// See [`crate::io::Io::listen`]. The address may be in TIME_WAIT (SO_REUSEADDR).
#[allow(clippy::disallowed_methods, reason = "this is where Io opens sockets")]
pub(super) fn listen(core: &Rc<Core>, address: SocketAddr) -> io::Result<UringListener> {
    let socket = TcpListener::bind(address)?;
    let address = socket.local_addr()?;
    Ok(UringListener { core: core.clone(), socket: Rc::new(socket), address })
}

/// See [`crate::io::Io::connect`].
pub(super) async fn connect(core: &Rc<Core>, address: SocketAddr) -> io::Result<UringStream> {
    let socket = Rc::new(TcpStream::from(system::stream_socket(address)?));
    let (result, op) = core.start(Op::Connect { socket: descriptor(&socket), address: Address::new(address) }).await;
    drop(op);
    result?;
    socket.set_nodelay(true)?;
    Ok(UringStream { core: core.clone(), socket })
}

/// See [`crate::io::Io::adopt`].
pub(super) fn adopt(core: &Rc<Core>, stream: DetachedUringStream) -> UringStream {
    UringStream { core: core.clone(), socket: Rc::new(stream.0) }
}

impl UringListener {
    /// See [`crate::io::Listener::accept`].
    pub async fn accept(&self) -> io::Result<(UringStream, SocketAddr)> {
        let op = Op::Accept { socket: descriptor(&self.socket), peer: Peer::new() };
        let (result, Op::Accept { peer, .. }) = self.core.start(op).await else {
            unreachable!("an operation comes back as it went");
        };
        let socket = TcpStream::from(op::opened(result?));
        // A connection that is already reset refuses options; its reader finds out.
        let _ = socket.set_nodelay(true);
        Ok((UringStream { core: self.core.clone(), socket: Rc::new(socket) }, peer.address()))
    }

    /// See [`crate::io::Listener::local_address`].
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }
}

/// A connection; clones share it.
#[derive(Clone)]
pub struct UringStream {
    core: Rc<Core>,
    socket: Rc<TcpStream>,
}

/// A connection between two cores.
pub struct DetachedUringStream(TcpStream);

impl UringStream {
    /// Reads up to `most` bytes into the spare capacity of `buffer`.
    pub(in crate::io) async fn read_once(&self, buffer: BytesMut, most: usize) -> (io::Result<usize>, BytesMut) {
        let op = Op::Receive { socket: descriptor(&self.socket), buffer, most };
        let (result, Op::Receive { mut buffer, .. }) = self.core.start(op).await else {
            unreachable!("an operation comes back as it went");
        };
        if let Ok(received) = result {
            op::extend_received(&mut buffer, received);
        }
        (result, buffer)
    }

    /// Writes `chunks`, none of them empty, or less.
    pub(in crate::io) async fn write_once(&self, chunks: Vec<Bytes>) -> (io::Result<usize>, Vec<Bytes>) {
        assert!(!chunks.is_empty(), "a write has something to write");
        debug_assert!(MAX_CHUNKS <= libc::UIO_MAXIOV as usize);
        match self.core.start(Op::send(descriptor(&self.socket), chunks)).await {
            (result, Op::Send { chunks, .. }) => (result, chunks),
            _ => unreachable!("an operation comes back as it went"),
        }
    }

    /// See [`crate::io::Stream::shutdown`].
    pub fn shutdown(&self) {
        // A connection that is gone already has nothing to end.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// See [`crate::io::Stream::detach`]. An operation whose future was dropped counts as a use until it ends.
    pub fn detach(self) -> Option<DetachedUringStream> {
        Rc::try_unwrap(self.socket).ok().map(DetachedUringStream)
    }
}
