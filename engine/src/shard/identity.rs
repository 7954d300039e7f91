//! Whose data directory it is, and in which format: one block in the file that locks the directory.
//!
//! The invariant: a broker touches nothing in a directory that another node has filled, or a version that it
//! does not know. A block that cannot be read says nothing about either, so that it is written anew: it guards
//! against a wrong flag, and no record depends on it.

use std::path::Path;

use bytes::{Buf, BufMut, BytesMut};

use super::StartError;
use crate::io::File;
use crate::io::buffer::{BLOCK, Buffer};

/// "CLDD": the identity of a data directory.
const MAGIC: u32 = u32::from_le_bytes(*b"CLDD");
/// The format of everything in the directory. Magic, CRC and version stay where they are in every one.
const VERSION: u16 = 1;
/// The CRC covers what stands behind it.
const CRC_FROM: usize = 8;

/// Compares the identity in the locked `file` of `data_dir` with this node's, or writes it if there is none.
///
/// # Errors
/// The directory is another node's, or of another format; or the disk fails.
pub(super) async fn claim_for(file: &File, data_dir: &Path, node_id: i32) -> Result<(), StartError> {
    let directory = data_dir.display();
    let failed = || StartError::io(format!("the data directory {directory}"));
    let block = file.read_at(0, BLOCK).await.map_err(failed())?;
    match parse(&block) {
        Some((VERSION, found)) if found == node_id => Ok(()),
        Some((VERSION, found)) => Err(StartError(format!(
            "the data directory {directory} is that of node {found}, and this is node {node_id}; start with --node-id \
             {found}, or with another --data-dir"
        ))),
        Some((version, _)) => Err(StartError(format!(
            "the data directory {directory} has format {version}, and this version of Corelog knows {VERSION}; start \
             the version that wrote it, or with another --data-dir"
        ))),
        None => file.write_durable_at(0, encode(VERSION, node_id).freeze()).await.map_err(failed()),
    }
}

fn encode(version: u16, node_id: i32) -> Buffer {
    let mut block = BytesMut::with_capacity(BLOCK);
    block.put_u32_le(MAGIC);
    block.put_u32_le(0);
    block.put_u16_le(version);
    block.put_u16_le(0);
    block.put_i32_le(node_id);
    block.resize(BLOCK, 0);
    let crc = crc32c::crc32c(&block[CRC_FROM..]);
    block[4..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
    Buffer::copy_of(&block)
}

/// Version and node id; the latter means something in this version only.
fn parse(block: &[u8]) -> Option<(u16, i32)> {
    let mut block = block.get(..BLOCK)?;
    let crc = crc32c::crc32c(&block[CRC_FROM..]);
    if block.get_u32_le() != MAGIC || block.get_u32_le() != crc {
        return None;
    }
    let version = block.get_u16_le();
    block.advance(2);
    Some((version, block.get_i32_le()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::sim::{Faults, World};
    use crate::io::{Io, OpenMode};

    async fn claim(io: Io, node_id: i32) -> Result<(), String> {
        let file = io.open(Path::new("/lock"), OpenMode::Create).await.expect("the disk is sound");
        claim_for(&file, Path::new("/data"), node_id).await.map_err(|error| error.to_string())
    }

    async fn put(io: Io, block: Buffer) {
        let file = io.open(Path::new("/lock"), OpenMode::Create).await.expect("the disk is sound");
        file.write_durable_at(0, block.freeze()).await.expect("the disk is sound");
    }

    #[test]
    fn a_directory_belongs_to_its_first_node_and_to_its_format() {
        let world = World::new(1, Faults::none());
        let node = world.add_node();
        let claim = |node_id| world.block_on(node, |io| claim(io, node_id));
        assert_eq!([claim(7), claim(7)], [Ok(()), Ok(())]);
        let refused = claim(8).expect_err("another node's");
        assert!(refused.contains("is that of node 7") && refused.contains("--node-id 7"), "{refused}");

        world.block_on(node, |io| put(io, encode(VERSION + 1, 7)));
        let refused = claim(7).expect_err("another format");
        assert!(refused.contains("has format 2") && refused.contains("knows 1"), "{refused}");

        // What cannot be read is nobody's.
        let mut damaged = BytesMut::from(&encode(VERSION, 7)[..]);
        damaged[12] ^= 1;
        world.block_on(node, |io| put(io, Buffer::copy_of(&damaged)));
        assert_eq!(claim(8), Ok(()));
        assert!(claim(7).is_err());
    }
}
