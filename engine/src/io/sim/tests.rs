use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::*;
use crate::io::buffer::{BLOCK, Buffer};
use crate::io::mailbox::mailboxes;
use crate::io::{File, OpenMode};

fn block_of(byte: u8) -> Bytes {
    let mut buffer = Buffer::zeroed(BLOCK);
    buffer.fill(byte);
    buffer.freeze()
}

fn path() -> &'static Path {
    Path::new("/file")
}

/// A file of `blocks` blocks of zeros whose name and content are durable.
async fn durable_file(io: &Io, blocks: usize) -> File {
    let file = io.open(path(), OpenMode::CreateNew).await.expect("a new file");
    file.write_durable_at(0, Buffer::zeroed(blocks * BLOCK).freeze()).await.expect("no faults");
    io.sync_dir(Path::new("/")).await.expect("no faults");
    file
}

/// The bytes of block `index` as a restarted process would read them.
fn block_after(world: &World, node: NodeId, index: usize) -> Vec<u8> {
    let content = world.file_content(node, path()).expect("the file's name was durable");
    content[index * BLOCK..(index + 1) * BLOCK].to_vec()
}

#[test]
fn power_loss_takes_only_what_no_flush_has_covered() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let world = World::new(seed, Faults::none());
        let node = world.add_node();
        world.block_on(node, |io| async move {
            let file = durable_file(&io, 4).await;
            file.write_at(0, block_of(1)).await.expect("no faults");
            file.sync().await.expect("no faults");
            file.write_durable_at(BLOCK as u64, block_of(2)).await.expect("no faults");
            file.write_at(2 * BLOCK as u64, block_of(3)).await.expect("no faults");
        });
        world.crash(node, CrashKind::PowerLoss);
        assert_eq!(block_after(&world, node, 0), vec![1; BLOCK], "seed {seed}: synced");
        assert_eq!(block_after(&world, node, 1), vec![2; BLOCK], "seed {seed}: written durably");
        let unsynced = block_after(&world, node, 2);
        for sector in unsynced.chunks(512) {
            assert!(sector.iter().all(|b| *b == 3) || sector.iter().all(|b| *b == 0), "seed {seed}: sectors are whole");
        }
        match unsynced.iter().filter(|b| **b == 3).count() {
            0 => lost += 1,
            BLOCK => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(lost > 10 && kept > 10 && torn > 10, "lost {lost}, kept {kept}, torn {torn}");
}

#[test]
fn kill_keeps_what_was_accepted() {
    for seed in 0..50 {
        let world = World::new(seed, Faults::none());
        let node = world.add_node();
        world.block_on(node, |io| async move {
            let file = io.open(path(), OpenMode::CreateNew).await.expect("a new file");
            file.write_at(0, block_of(1)).await.expect("no faults");
        });
        world.crash(node, CrashKind::Kill);
        assert_eq!(block_after(&world, node, 0), vec![1; BLOCK]);
    }
}

#[test]
fn a_write_after_the_flush_was_asked_for_is_not_covered() {
    let mut lost = 0;
    for seed in 0..100 {
        let world = World::new(seed, Faults::none());
        let node = world.add_node();
        world.block_on(node, |io| async move {
            let file = durable_file(&io, 2).await;
            let flush = file.sync();
            let write = async {
                io.yield_now().await;
                file.write_at(0, block_of(1)).await
            };
            let (flushed, written) = futures_lite::future::zip(flush, write).await;
            flushed.and(written).expect("no faults");
        });
        world.crash(node, CrashKind::PowerLoss);
        lost += usize::from(block_after(&world, node, 0)[0] == 0);
    }
    assert!(lost > 20, "lost in {lost} of 100 seeds");
}

#[test]
fn a_flush_that_is_tried_again_does_not_bring_back_what_the_failed_one_lost() {
    let (mut at_once, mut later) = (0, 0);
    for seed in 0..100 {
        let world = World::new(seed, Faults::none());
        let node = world.add_node();
        world.block_on(node, |io| async move {
            durable_file(&io, 1).await.write_at(0, block_of(1)).await.expect("no faults")
        });
        let flush = |io: Io| async move { io.open(path(), OpenMode::ReadWrite).await.expect("there").sync().await };
        world.set_faults(Faults { sync_error: 1.0, ..Faults::none() });
        assert!(world.block_on(node, flush).is_err());
        world.set_faults(Faults::none());
        assert!(world.block_on(node, flush).is_ok(), "the second flush claims success");
        let before = block_after(&world, node, 0)[0];
        world.crash(node, CrashKind::PowerLoss);
        let after = block_after(&world, node, 0)[0];
        at_once += usize::from(before == 0);
        later += usize::from(before == 1 && block_after(&world, node, 0).contains(&0));
        assert!(before == 1 || after == 0);
    }
    assert!(at_once > 10 && later > 10, "{at_once} at once, {later} later");
}

#[test]
fn a_rename_is_durable_after_its_directory_is_synced() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..100 {
        for synced in [true, false] {
            let world = World::new(seed, Faults::none());
            let node = world.add_node();
            world.block_on(node, |io| async move {
                durable_file(&io, 1).await.write_durable_at(0, block_of(1)).await.expect("no faults");
                io.rename(path(), Path::new("/renamed")).await.expect("no faults");
                if synced {
                    io.sync_dir(Path::new("/")).await.expect("no faults");
                }
            });
            world.crash(node, CrashKind::PowerLoss);
            let names: Vec<_> = world.files(node).into_iter().map(|(path, _)| path).collect();
            assert_eq!(names.len(), 1, "seed {seed}: a rename is atomic: {names:?}");
            let is_new = names[0] == Path::new("/renamed");
            assert!(is_new || !synced, "seed {seed}: a synced rename stays");
            if !synced {
                *(if is_new { &mut new } else { &mut old }) += 1;
            }
        }
    }
    assert!(old > 10 && new > 10, "old {old}, new {new}");
}

#[test]
fn a_file_may_vanish_until_its_directory_is_synced() {
    let mut gone = 0;
    for seed in 0..50 {
        let world = World::new(seed, Faults::none());
        let node = world.add_node();
        world.block_on(node, |io| async move {
            let file = io.open(path(), OpenMode::CreateNew).await.expect("a new file");
            file.write_durable_at(0, block_of(1)).await.expect("no faults");
        });
        world.crash(node, CrashKind::PowerLoss);
        gone += usize::from(world.files(node).is_empty());
    }
    assert!(gone > 10 && gone < 50, "gone in {gone} of 50 seeds");
}

#[test]
fn a_lock_lasts_as_long_as_an_operation_in_flight() {
    let mut held = 0;
    for seed in 0..60 {
        let world = World::new(seed, Faults { stall: 1.0, ..Faults::none() });
        let node = world.add_node();
        world.start(node, 1, |io| async move {
            let file = io.open(path(), OpenMode::Create).await.expect("a new file");
            assert!(file.try_lock().expect("locks do not fail"));
            file.write_at(0, block_of(1)).await.expect("no faults");
            std::future::pending().await
        });
        // The write begins when the file has been opened, and takes at least 1 s.
        assert!(world.run_until(Duration::from_secs(20), || world.files(node).len() == 1));
        world.run_for(Duration::from_millis(10));
        world.set_faults(Faults::none());
        world.crash(node, CrashKind::Kill);
        let was_held = world.block_on(node, |io| async move {
            let open = |io: Io| async move { io.open(path(), OpenMode::ReadWrite).await.expect("there") };
            let file = open(io.clone()).await;
            let mut was_held = false;
            while !file.try_lock().expect("locks do not fail") {
                was_held = true;
                assert!(!open(io.clone()).await.try_lock().expect("locks do not fail"));
                io.sleep(Duration::from_millis(100)).await;
            }
            was_held
        });
        held += usize::from(was_held);
    }
    assert!(held > 10 && held < 50, "an old write has held the lock in {held} of 60 seeds");
}

/// A busy little world: files, mail, connections and timers on two nodes, under many faults.
fn busy_world(seed: u64) -> (u64, u64, Coverage) {
    let mut faults = Faults::swarm(seed, true);
    faults.network_delay_max = Duration::from_millis(20);
    let world = World::new(seed, faults);
    let (server, client) = (world.add_node(), world.add_node());
    let mut boxes = mailboxes::<u64>(3).into_iter();
    world.start(server, 3, move |io| {
        let mailbox = boxes.next().expect("one for each core");
        async move {
            let receiver = Rc::new(mailbox);
            let sender = receiver.clone();
            let from = io.clone();
            io.spawn(Class::Foreground, async move {
                for n in 0..100 {
                    sender.send(&from, (from.random_u64() % 3) as usize, n);
                    from.sleep(Duration::from_micros(from.random_u64() % 500)).await;
                }
            });
            let path = format!("/{}", io.core());
            let file = io.open(Path::new(&path), OpenMode::Create).await;
            loop {
                for n in receiver.receive().await {
                    if let Ok(file) = &file {
                        let _ = file.write_at(n % 8 * BLOCK as u64, block_of(n as u8)).await;
                        let _ = file.sync().await;
                    }
                }
            }
        }
    });
    world.start(client, 1, move |io| async move {
        for _ in 0..20 {
            let _ = io.connect("10.0.0.1:9092".parse().expect("an address")).await;
            io.sleep(Duration::from_millis(50)).await;
        }
    });
    world.run_for(Duration::from_secs(2));
    world.crash(server, CrashKind::PowerLoss);
    world.run_for(Duration::from_secs(1));
    (world.trace_hash(), world.steps(), world.coverage())
}

#[test]
fn one_seed_has_one_history() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..30 {
        let first = busy_world(seed);
        assert!(first == busy_world(seed), "seed {seed}");
        hashes.insert(first.0);
    }
    assert_eq!(hashes.len(), 30, "other seeds have other histories");
}

#[test]
fn streams_keep_their_bytes_in_order() {
    const LEN: usize = 300_000;
    for seed in 0..40 {
        let faults = Faults { chunking: 0.5, network_delay: 0.3, ..Faults::none() };
        let world = World::new(seed, faults);
        let (server, client) = (world.add_node(), world.add_node());
        world.start(server, 2, |io| async move {
            if io.core() == 1 {
                return;
            }
            let listener = io.listen("0.0.0.0:9092".parse().expect("an address")).await.expect("free");
            loop {
                let (stream, _) = listener.accept().await.expect("no faults");
                let echo = async move {
                    loop {
                        let (read, buffer) = stream.read(BytesMut::with_capacity(1000)).await;
                        if read.expect("no resets") == 0 {
                            return;
                        }
                        stream.write(vec![buffer.freeze()]).await.expect("no resets");
                    }
                };
                io.spawn(Class::Foreground, echo);
            }
        });
        let sent: Vec<u8> = (0..LEN).map(|n| (n * n / 7) as u8).collect();
        let expected = sent.clone();
        let received = world.block_on(client, |io| async move {
            let address = "10.0.0.1:9092".parse().expect("an address");
            let stream = loop {
                match io.connect(address).await {
                    Ok(stream) => break stream,
                    Err(_) => io.sleep(Duration::from_millis(1)).await,
                }
            };
            let writer = stream.clone();
            io.spawn(Class::Foreground, async move { writer.write(vec![Bytes::from(sent)]).await.expect("no resets") });
            let mut received = BytesMut::new();
            while received.len() < LEN {
                received.reserve(5000);
                let (read, buffer) = stream.read(received).await;
                assert_ne!(read.expect("no resets"), 0);
                received = buffer;
            }
            received
        });
        assert!(received[..] == expected[..], "seed {seed}");
    }
}

#[test]
fn a_cut_holds_bytes_back_and_a_crash_ends_the_connection() {
    let world = World::new(7, Faults::none());
    let (server, client) = (world.add_node(), world.add_node());
    let seen: Rc<RefCell<Vec<u8>>> = Rc::default();
    let sink = seen.clone();
    world.start(server, 1, |io| {
        let sink = sink.clone();
        async move {
            let listener = io.listen("0.0.0.0:1".parse().expect("an address")).await.expect("free");
            let (stream, _) = listener.accept().await.expect("no faults");
            loop {
                let (read, buffer) = stream.read(BytesMut::with_capacity(10)).await;
                assert_ne!(read.expect("no resets"), 0);
                sink.borrow_mut().extend_from_slice(&buffer);
            }
        }
    });
    world.run_for(Duration::from_millis(1));
    let stream = world.block_on(client, |io| async move {
        io.connect("10.0.0.1:1".parse().expect("an address")).await.expect("listens")
    });
    world.cut(client, server);
    let writer = stream.clone();
    world.block_on(client, |_| async move { writer.write(vec![Bytes::from_static(b"abc")]).await.expect("buffered") });
    world.run_for(Duration::from_secs(5));
    assert!(seen.borrow().is_empty());
    world.heal();
    world.run_for(Duration::from_secs(1));
    assert_eq!(*seen.borrow(), b"abc");
    world.crash(server, CrashKind::Kill);
    let (read, _) = world.block_on(client, |_| async move { stream.read(BytesMut::with_capacity(10)).await });
    assert!(read.is_err());
    let refused =
        world.block_on(client, |io| async move { io.connect("10.0.0.1:1".parse().expect("an address")).await.err() });
    assert_eq!(refused.map(|error| error.kind()), Some(std::io::ErrorKind::ConnectionRefused));
}

#[test]
fn a_detached_stream_goes_on_at_another_core_or_is_closed() {
    let world = World::new(2, Faults::none());
    let (server, client) = (world.add_node(), world.add_node());
    let mut boxes = mailboxes::<crate::io::DetachedStream>(2).into_iter();
    world.start(server, 2, |io| {
        let mailbox = boxes.next().expect("one for each core");
        async move {
            if io.core() == 1 {
                for detached in mailbox.receive().await {
                    io.adopt(detached).write(vec![Bytes::from_static(b"core 1")]).await.expect("no resets");
                }
                return;
            }
            let listener = io.listen("0.0.0.0:1".parse().expect("an address")).await.expect("free");
            let (first, _) = listener.accept().await.expect("no faults");
            mailbox.send(&io, 1, first.detach().expect("not shared"));
            let (second, _) = listener.accept().await.expect("no faults");
            drop(second.detach());
            std::future::pending().await
        }
    });
    world.run_for(Duration::from_millis(1));
    let read_all = |io: Io| async move {
        let stream = io.connect("10.0.0.1:1".parse().expect("an address")).await.expect("listens");
        let mut all = Vec::new();
        loop {
            let (read, buffer) = stream.read(BytesMut::with_capacity(100)).await;
            if read.expect("no resets") == 0 {
                return all;
            }
            all.extend_from_slice(&buffer);
        }
    };
    assert_eq!(world.block_on(client, read_all), b"core 1");
    assert!(world.block_on(client, read_all).is_empty());
}

#[test]
fn a_reader_that_does_not_read_holds_the_writer_back() {
    let world = World::new(4, Faults::none());
    let (server, client) = (world.add_node(), world.add_node());
    world.start(server, 1, |io| async move {
        let listener = io.listen("0.0.0.0:1".parse().expect("an address")).await.expect("free");
        let _unread = listener.accept().await.expect("no faults");
        std::future::pending().await
    });
    world.run_for(Duration::from_millis(1));
    let written: Rc<RefCell<usize>> = Rc::default();
    let count = written.clone();
    world.start(client, 1, |io| {
        let count = count.clone();
        async move {
            let stream = io.connect("10.0.0.1:1".parse().expect("an address")).await.expect("listens");
            loop {
                stream.write(vec![Bytes::from_static(&[0; 4096])]).await.expect("no resets");
                *count.borrow_mut() += 4096;
            }
        }
    });
    world.run_for(Duration::from_secs(10));
    assert!((4096..=1 << 20).contains(&*written.borrow()), "{} bytes are buffered", written.borrow());
}

#[test]
fn mail_of_a_pair_keeps_its_order_and_that_of_others_does_not() {
    let mut interleavings = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let world = World::new(seed, Faults { slow_mail: 0.3, ..Faults::none() });
        let node = world.add_node();
        let order: Rc<RefCell<Vec<(usize, u64)>>> = Rc::default();
        let mut boxes = mailboxes::<(usize, u64)>(3).into_iter();
        world.start(node, 3, |io| {
            let mailbox = boxes.next().expect("one for each core");
            let order = order.clone();
            async move {
                if io.core() > 0 {
                    (0..50).for_each(|n| mailbox.send(&io, 0, (io.core(), n)));
                    return;
                }
                while order.borrow().len() < 100 {
                    let received = mailbox.receive().await;
                    order.borrow_mut().extend(received);
                }
            }
        });
        assert!(world.run_until(Duration::from_secs(1), || order.borrow().len() == 100));
        for core in [1, 2] {
            let of_core = order.borrow().iter().filter(|m| m.0 == core).map(|m| m.1).collect::<Vec<_>>();
            assert_eq!(of_core, (0..50).collect::<Vec<_>>());
        }
        interleavings.insert(order.borrow().iter().map(|m| m.0).collect::<Vec<_>>());
    }
    assert!(interleavings.len() > 15);
}

#[test]
fn the_ledger_knows_the_damage_until_it_is_overwritten() {
    let world = World::new(3, Faults::none());
    let node = world.add_node();
    world.block_on(node, |io| async move {
        let file = durable_file(&io, 4).await;
        file.write_durable_at(0, block_of(9)).await.expect("no faults");
    });
    world.set_faults(Faults { lost_write: 1.0, ..Faults::none() });
    let reopened = |io: Io| async move { io.open(path(), OpenMode::ReadWrite).await.expect("there") };
    let file = world.block_on(node, reopened);
    let lost = file.clone();
    world.block_on(node, |_| async move { lost.write_durable_at(0, block_of(5)).await.expect("believed") });
    assert_eq!(block_after(&world, node, 0), vec![9; BLOCK]);
    assert!(world.is_damaged(node, path(), 100..101));
    assert!(!world.is_damaged(node, path(), 4096..8192));
    world.set_faults(Faults::none());
    let moved = Path::new("/moved");
    world.block_on(node, move |io| async move { io.rename(path(), moved).await.expect("no faults") });
    assert_eq!(world.damage(node), [Damage { path: Some(moved.to_owned()), range: 0..4096 }]);
    world.block_on(node, |_| async move { file.write_durable_at(0, block_of(6)).await.expect("no faults") });
    assert!(world.damage(node).is_empty());
    let sector = world.flip_bit(node, moved).expect("a page with content");
    assert!(world.is_damaged(node, moved, sector..sector + 1));
    let content = world.file_content(node, moved).expect("there");
    assert_eq!(content[..BLOCK].iter().filter(|b| **b != 6).count(), 1);
}

#[test]
fn a_misdirected_write_damages_both_places() {
    let world = World::new(5, Faults::none());
    let node = world.add_node();
    let file = world.block_on(node, |io| async move { durable_file(&io, 8).await });
    world.set_faults(Faults { misdirected_write: 1.0, ..Faults::none() });
    world.block_on(node, |_| async move { file.write_durable_at(0, block_of(1)).await.expect("believed") });
    let content = world.file_content(node, path()).expect("there");
    let at = content.chunks(BLOCK).position(|block| block[0] == 1).expect("it went somewhere") as u64;
    assert_ne!(at, 0);
    assert!(world.is_damaged(node, path(), 0..1));
    assert!(world.is_damaged(node, path(), at * BLOCK as u64..at * BLOCK as u64 + 1));
    assert_eq!(world.coverage().count(FaultClass::MisdirectedWrite), 1);
}

#[test]
fn a_full_disk_refuses_growth_and_has_room_again() {
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    world.set_disk_capacity(node, 8 * BLOCK as u64);
    world.block_on(node, |io| async move {
        let file = durable_file(&io, 4).await;
        let full = file.allocate(0, 9 * BLOCK as u64).await.expect_err("more than there is");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        file.write_at(0, block_of(1)).await.expect("no growth");
        io.remove_file(path()).await.expect("there");
        assert_eq!(io.disk_space(Path::new("/")).await.expect("no faults").1, 8 * BLOCK as u64);
    });
}

#[test]
fn lengths_follow_writes_allocations_and_cuts() {
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    world.block_on(node, |io| async move {
        let file = durable_file(&io, 2).await;
        file.write_at(0, block_of(7)).await.expect("no faults");
        file.truncate(5000).await.expect("no faults");
        let read = file.read_at(0, 4 * BLOCK).await.expect("no faults");
        assert_eq!(read.len(), 5000);
        file.truncate(100).await.expect("no faults");
        file.allocate(0, 3 * BLOCK as u64).await.expect("no faults");
        assert_eq!(file.len().await.expect("no faults"), 3 * BLOCK as u64);
        let read = file.read_at(0, BLOCK).await.expect("no faults");
        assert!(read[..100].iter().all(|b| *b == 7) && read[100..].iter().all(|b| *b == 0));
    });
}

#[test]
fn a_process_is_asked_to_stop_and_ends_with_its_mains() {
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    world.start(node, 2, |io| async move {
        if io.core() == 0 {
            io.terminated().await;
        }
    });
    world.run_for(Duration::from_secs(1));
    assert!(world.is_running(node));
    world.stop(node);
    assert!(world.run_until(Duration::from_secs(1), || !world.is_running(node)));
}

#[test]
fn a_paused_process_stands_still_and_goes_on() {
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    let ticks: Rc<RefCell<u32>> = Rc::default();
    let counter = ticks.clone();
    world.start(node, 1, |io| {
        let counter = counter.clone();
        async move {
            loop {
                io.sleep(Duration::from_millis(10)).await;
                *counter.borrow_mut() += 1;
            }
        }
    });
    world.pause(node, Duration::from_secs(5));
    world.run_for(Duration::from_secs(4));
    assert_eq!(*ticks.borrow(), 0);
    world.run_for(Duration::from_secs(2));
    assert!(*ticks.borrow() > 50);
}

#[test]
fn a_task_can_end_its_process() {
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    let killer = world.killer(node);
    world.start(node, 2, |_| {
        let killer = killer.clone();
        async move {
            killer.kill();
            std::future::pending().await
        }
    });
    assert!(world.run_until(Duration::from_secs(1), || !world.is_running(node)));
}

#[test]
fn a_write_in_flight_at_a_kill_lands_whole_in_part_or_not() {
    let (mut whole, mut part, mut nothing) = (0, 0, 0);
    for seed in 0..200 {
        let world = World::new(seed, Faults::none());
        let node = world.add_node();
        world.block_on(node, |io| async move {
            let file = durable_file(&io, 1).await;
            let writer = io.clone();
            io.spawn(Class::Foreground, async move {
                file.write_at(0, block_of(1)).await.expect("no faults");
                writer.sleep(Duration::from_secs(1)).await;
            });
            io.sleep(Duration::from_micros(2)).await;
        });
        world.crash(node, CrashKind::Kill);
        world.run_for(Duration::from_secs(1));
        match block_after(&world, node, 0).iter().filter(|b| **b == 1).count() {
            0 => nothing += 1,
            BLOCK => whole += 1,
            _ => part += 1,
        }
    }
    assert!(whole > 10 && part > 10 && nothing > 10, "whole {whole}, part {part}, nothing {nothing}");
}

const MODEL_BLOCKS: usize = 8;

/// What each block of a file may hold after a power loss: the last value that a flush covered, and all later.
#[derive(Clone)]
struct Allowed(Rc<RefCell<Vec<Vec<u8>>>>);

impl Allowed {
    fn put(&self, block: usize, value: u8) {
        self.0.borrow_mut()[block].push(value);
    }

    fn settle(&self, block: usize) {
        let values = &mut self.0.borrow_mut()[block];
        values.drain(..values.len() - 1);
    }
}

/// Writes, cuts and flushes one file at random, noting before each operation what it may leave behind and
/// after it what is certain.
async fn scribble(io: Io, allowed: Allowed) {
    let file = io.open(path(), OpenMode::ReadWrite).await.expect("there");
    loop {
        let block = io.random_u64() as usize % MODEL_BLOCKS;
        let value = (io.random_u64() % 250) as u8 + 1;
        let position = (block * BLOCK) as u64;
        match io.random_u64() % 8 {
            0 => {
                file.sync().await.expect("flushes do not fail here");
                (0..MODEL_BLOCKS).for_each(|block| allowed.settle(block));
            }
            1 => {
                (block..MODEL_BLOCKS).for_each(|block| allowed.put(block, 0));
                file.truncate(position).await.expect("cuts do not fail here");
            }
            2 | 3 => {
                allowed.put(block, value);
                file.write_durable_at(position, block_of(value)).await.expect("errors are transient");
                allowed.settle(block);
            }
            _ => {
                allowed.put(block, value);
                file.write_at(position, block_of(value)).await.expect("errors are transient");
            }
        }
    }
}

#[test]
fn each_block_holds_what_was_flushed_or_something_later() {
    let mut coverage = Coverage::default();
    for seed in 0..300 {
        let faults = Faults { short_write: 0.2, short_read: 0.2, transient: 0.1, slow_disk: 0.1, ..Faults::none() };
        let world = World::new(seed, faults);
        let node = world.add_node();
        world.block_on(node, |io| async move {
            durable_file(&io, MODEL_BLOCKS).await;
        });
        let allowed = Allowed(Rc::new(RefCell::new(vec![vec![0]; MODEL_BLOCKS])));
        for round in 0..5 {
            let noted = allowed.clone();
            world.crash(node, CrashKind::Kill);
            world.start(node, 1, |io| scribble(io, noted.clone()));
            world.run_for(Duration::from_micros(1000 + seed * 37 % 9000));
            world.crash(node, CrashKind::PowerLoss);
            let mut content = world.file_content(node, path()).expect("its name is durable");
            content.resize(MODEL_BLOCKS * BLOCK, 0);
            for (block, bytes) in content.chunks(BLOCK).enumerate() {
                let values = allowed.0.borrow()[block].clone();
                let legal = bytes
                    .chunks(512)
                    .all(|sector| values.contains(&sector[0]) && sector.iter().all(|b| *b == sector[0]));
                assert!(legal, "seed {seed}, round {round}, block {block}: {values:?}");
            }
            // The next round begins with values that are certain.
            let whole = allowed.clone();
            world.block_on(node, |io| async move {
                let file = io.open(path(), OpenMode::ReadWrite).await.expect("there");
                for block in 0..MODEL_BLOCKS {
                    file.write_durable_at((block * BLOCK) as u64, block_of(100)).await.expect("errors are transient");
                    whole.0.borrow_mut()[block] = vec![100];
                }
            });
        }
        coverage.merge(&world.coverage());
    }
    for class in [FaultClass::TornSector, FaultClass::LostUnsynced, FaultClass::LostLength, FaultClass::ShortWrite] {
        assert!(coverage.count(class) > 50, "{class:?} fired {} times", coverage.count(class));
    }
}

/// Throughput of the executor and the disk; run by hand: `--ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
fn throughput() {
    let world = World::new(1, Faults::swarm(1, false));
    let node = world.add_node();
    world.start(node, 4, |io| async move {
        let path = format!("/{}", io.core());
        let file = io.open(Path::new(&path), OpenMode::Create).await.expect("no faults yet");
        for n in 0..50_000 {
            let _ = file.write_at(n % 64 * BLOCK as u64, block_of(n as u8)).await;
            if n % 16 == 0 {
                let _ = file.sync().await;
            }
        }
    });
    assert!(world.run_until(Duration::from_secs(3600), || !world.is_running(node)));
    println!("{} steps", world.steps());
}

#[test]
fn the_wall_clock_may_jump_back_and_the_monotonic_one_does_not() {
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    let io = world.io(node, 0);
    let before = (io.now(), io.wall_clock_ms());
    world.jump_wall_clock(node, -5000);
    world.run_for(Duration::from_secs(1));
    assert_eq!(io.now().since(before.0), Duration::from_secs(1));
    assert_eq!(io.wall_clock_ms() - before.1, -4000);
}

#[test]
fn planned_errors_strike_the_operations_that_can_have_them() {
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    let first = world.disk_operations(node);
    let file = world.block_on(node, |io| async move { durable_file(&io, 4).await });
    // The operations of the file's making are counted, and nothing else is.
    assert!(world.disk_operations(node) > first + 1);
    let fail = |code| {
        let next = world.disk_operations(node);
        world.fail_operations(node, next..next + 1, code);
    };
    let code = |result: io::Result<()>| result.err().and_then(|error| error.raw_os_error());
    let write = |position: u64| {
        let file = file.clone();
        world.block_on(node, move |_| async move { file.write_at(position, block_of(9)).await })
    };
    fail(libc::ENOSPC);
    assert_eq!(code(write(0)), None, "what does not grow needs no space");
    fail(libc::ENOSPC);
    assert_eq!(code(write(64 * BLOCK as u64)), Some(libc::ENOSPC));
    fail(libc::EMFILE);
    assert_eq!(code(write(0)), None, "an open file has its descriptor");
    fail(libc::EMFILE);
    let opened = world.block_on(node, |io| async move { io.open(path(), OpenMode::Read).await.map(drop) });
    assert_eq!(code(opened), Some(libc::EMFILE));
    fail(libc::ENOMEM);
    let listed = world.block_on(node, |io| async move { io.read_dir(Path::new("/")).await.map(drop) });
    assert_eq!(code(listed), Some(libc::ENOMEM));
    assert_eq!(world.coverage().count(FaultClass::Planned), 3);
}

#[test]
fn unreadable_sectors_are_read_again_once_they_are_written_unless_they_are_dead() {
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    let file = world.block_on(node, |io| async move { durable_file(&io, 4).await });
    let try_all = |file: &File| {
        let file = file.clone();
        world.block_on(node, move |_| async move {
            let first = file.read_at(0, BLOCK).await.is_ok();
            let second = file.read_at(BLOCK as u64, BLOCK).await.is_ok();
            let written = file.write_at(BLOCK as u64, block_of(9)).await.is_ok();
            (first, second, written, file.read_at(BLOCK as u64, BLOCK).await.is_ok())
        })
    };
    assert!(world.make_unreadable(node, path(), 5000..5001, false));
    assert!(world.is_damaged(node, path(), 0..2 * BLOCK as u64));
    assert_eq!(try_all(&file), (true, false, true, true));
    assert!(!world.is_damaged(node, path(), 0..2 * BLOCK as u64));
    assert!(world.make_unreadable(node, path(), 5000..5001, true));
    assert_eq!(try_all(&file), (true, false, false, false));
    world.crash(node, CrashKind::PowerLoss);
    let file = world.block_on(node, |io| async move { io.open(path(), OpenMode::ReadWrite).await.expect("there") });
    assert_eq!(try_all(&file), (true, false, false, false), "the medium stays as it is");
}

#[test]
fn files_are_lost_and_shortened_on_the_medium() {
    let world = World::new(1, Faults::none());
    let node = world.add_node();
    world.block_on(node, |io| async move { durable_file(&io, 4).await });
    world.shorten_file(node, path(), 2 * BLOCK as u64).expect("it is there");
    world.crash(node, CrashKind::TotalPowerLoss);
    assert_eq!(world.file_content(node, path()).map(|content| content.len()), Some(2 * BLOCK));
    world.lose_file(node, path()).expect("it is there");
    world.crash(node, CrashKind::TotalPowerLoss);
    assert_eq!(world.file_content(node, path()), None);
}

#[test]
fn a_total_power_loss_keeps_what_was_flushed_and_nothing_else() {
    for seed in 0..20 {
        let world = World::new(seed, Faults::none());
        let node = world.add_node();
        world.block_on(node, |io| async move {
            let file = durable_file(&io, 4).await;
            file.write_durable_at(0, block_of(2)).await.expect("no faults");
            file.write_at(BLOCK as u64, block_of(3)).await.expect("no faults");
            file.write_at(8 * BLOCK as u64, block_of(3)).await.expect("no faults");
            io.open(Path::new("/late"), OpenMode::Create).await.expect("no faults");
        });
        world.crash(node, CrashKind::TotalPowerLoss);
        let content = world.file_content(node, path()).expect("its name is durable");
        assert_eq!(content.len(), 4 * BLOCK, "seed {seed}");
        assert!(content[..BLOCK].iter().all(|byte| *byte == 2) && content[BLOCK..].iter().all(|byte| *byte != 3));
        assert_eq!(world.file_content(node, Path::new("/late")), None);
    }
}
