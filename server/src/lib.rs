//! The broker: from sockets to shards.
//!
//! Read in this order: [`broker`] is what runs on each core, [`listener`] brings connections, [`connection`]
//! cuts them into requests, [`dispatch`] finds the handler, [`handlers`] ask shards and controller. Only the
//! binary chooses a backend; everything here reaches the world through the engine's `Io`, but for the thread of
//! [`metrics`], which shows what [`figures`] counts.

pub mod authorizer;
pub mod broker;
pub mod config;
pub mod connection;
pub mod cores;
pub mod dispatch;
pub mod figures;
pub mod handlers;
pub mod limits;
pub mod listener;
pub mod metrics;
pub mod quota;
