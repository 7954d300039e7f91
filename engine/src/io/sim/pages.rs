//! One file of a simulated disk: its pages, each with what is seen and what is on the medium.
//!
//! The invariant: a page without dirty sectors is on the medium as it is seen. A flush and a power loss are
//! the two ways to that state; a failed flush dooms sectors, so that no later flush can save them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::faults::{Coverage, FaultClass};
use super::random::Random;

/// What a device writes whole or not at all. 512 bytes.
pub(super) const SECTOR: usize = 512;
pub(super) const PAGE: usize = 4096;
/// `None` is a page of zeros.
pub(super) type Content = Option<Box<[u8; PAGE]>>;

#[derive(Default)]
pub(super) struct Page {
    pub(super) current: Content,
    /// The medium's image; meaningful while `dirty` is not 0.
    pub(super) medium: Content,
    /// Sectors of `current` that are not on the medium.
    pub(super) dirty: u8,
    /// Dirty sectors that no flush will save: one has failed and said so.
    pub(super) doomed: u8,
    /// Sectors damaged by the simulator in `current`, and in `medium`.
    pub(super) damage: u8,
    pub(super) medium_damage: u8,
    /// When the page became dirty.
    pub(super) dirtied: u64,
    /// Whether it is dirty only because the file was cut before it.
    pub(super) cut: bool,
}

#[derive(Default)]
pub(super) struct FileData {
    pub(super) pages: BTreeMap<u64, Page>,
    pub(super) dirty: BTreeSet<u64>,
    pub(super) len: u64,
    pub(super) medium_len: u64,
    pub(super) allocated: u64,
    /// Sectors, by number, that the medium does not give back; whether that is for good, or until they are written.
    pub(super) unreadable: BTreeMap<u64, bool>,
}

/// How a write reaches the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Landing {
    /// Volatile until a flush.
    Cached,
    /// On the medium at once.
    Durable,
}

impl FileData {
    pub(super) fn store_in_page(
        &mut self,
        index: u64,
        within: usize,
        bytes: &[u8],
        landing: Landing,
        damage: bool,
        now: u64,
    ) {
        debug_assert!(within.is_multiple_of(SECTOR) && bytes.len().is_multiple_of(SECTOR));
        let mask = sector_mask(within / SECTOR, bytes.len() / SECTOR);
        let page = self.pages.entry(index).or_default();
        match landing {
            Landing::Cached => {
                page.make_dirty(mask, now);
                self.dirty.insert(index);
            }
            Landing::Durable if page.dirty & !mask == 0 => {
                if page.dirty != 0 {
                    self.dirty.remove(&index);
                }
                page.clean();
            }
            Landing::Durable => {
                page.dirty &= !mask;
                put(&mut page.medium, within, bytes);
                page.medium_damage = with_bits(page.medium_damage, mask, damage);
            }
        }
        page.doomed &= !mask;
        page.cut = false;
        page.damage = with_bits(page.damage, mask, damage);
        put(&mut page.current, within, bytes);
    }

    pub(super) fn commit_len(&mut self) {
        if self.medium_len > self.len {
            let pages = &mut self.pages;
            self.dirty.retain(|index| {
                let page = pages.get_mut(index).expect("a dirty page exists");
                if page.cut {
                    page.clean();
                }
                page.dirty != 0
            });
        }
        self.medium_len = self.len;
    }

    /// Whether a sector of these bytes cannot be read.
    pub(super) fn is_unreadable(&self, position: u64, len: usize) -> bool {
        self.unreadable.range(sectors(position, len)).next().is_some()
    }

    /// Whether a sector of these bytes can never be written again. Those that can are readable from now on.
    pub(super) fn is_dead(&mut self, position: u64, len: usize) -> bool {
        let within = sectors(position, len);
        let is_dead = self.unreadable.range(within.clone()).any(|(_, for_good)| *for_good);
        if !is_dead && !self.unreadable.is_empty() {
            self.unreadable.retain(|sector, _| !within.contains(sector));
        }
        is_dead
    }

    /// Sets the length; what is cut off reads as zeros if the file grows again.
    pub(super) fn cut(&mut self, len: u64, now: u64) {
        if len < self.len {
            let first_gone = len.div_ceil(PAGE as u64);
            for (index, page) in self.pages.range_mut(first_gone..) {
                page.make_dirty(0xff, now);
                page.current = None;
                page.damage = 0;
                page.doomed = 0;
                page.cut = true;
                self.dirty.insert(*index);
            }
            self.zero_tail(len, Some(now));
            self.unreadable.split_off(&len.div_ceil(SECTOR as u64));
        }
        self.len = len;
    }

    /// Zeros the last page beyond `len`: a change like any other if `now` is given, else of the medium.
    pub(super) fn zero_tail(&mut self, len: u64, now: Option<u64>) {
        let within = (len % PAGE as u64) as usize;
        let index = len / PAGE as u64;
        let Some(page) = self.pages.get_mut(&index).filter(|_| within != 0) else { return };
        if let Some(now) = now {
            let first = within / SECTOR;
            let content = page.current.clone();
            page.make_dirty(sector_mask(first, PAGE / SECTOR - first), now);
            // A page of which every sector changes hands its content over; here its front stays.
            page.current = content;
            self.dirty.insert(index);
        }
        if let Some(content) = &mut page.current {
            content[within..].fill(0);
        }
    }

    /// Each unflushed sector survives with this probability; with `None` nothing does, nor does a length.
    pub(super) fn lose_power(&mut self, survival: Option<f64>, random: &mut Random, coverage: &mut Coverage) {
        let len = survival.map_or(self.medium_len, |_| self.len_after_power_loss(random));
        let survival = survival.unwrap_or(0.0);
        if len != self.len {
            coverage.add(FaultClass::LostLength, 1);
        }
        let cut_lost = self.medium_len > self.len && len == self.medium_len;
        for index in std::mem::take(&mut self.dirty) {
            let page = self.pages.get_mut(&index).expect("a dirty page exists");
            let mut lost = page.doomed;
            for sector in 0..PAGE / SECTOR {
                let mask = 1 << sector;
                if page.dirty & mask != 0 && !random.chance(survival) {
                    lost |= mask;
                }
            }
            if page.cut {
                lost = if cut_lost { page.dirty } else { 0 };
            }
            coverage.add(FaultClass::LostUnsynced, u64::from(lost != 0));
            coverage.add(FaultClass::TornSector, u64::from(lost != 0 && lost != page.dirty));
            page.revert(lost);
            page.clean();
        }
        self.len = len;
        self.medium_len = len;
        self.pages.split_off(&len.div_ceil(PAGE as u64));
        self.zero_tail(len, None);
        self.allocated = len.next_multiple_of(PAGE as u64);
    }

    pub(super) fn len_after_power_loss(&self, random: &mut Random) -> u64 {
        match random.below(3) {
            0 => self.medium_len,
            1 => self.len,
            // A growing file may have been caught half-way.
            _ if self.len > self.medium_len => {
                let blocks = (self.len - self.medium_len) / PAGE as u64;
                (self.medium_len + random.between(0, blocks) * PAGE as u64).min(self.len)
            }
            _ => self.medium_len,
        }
    }
}

impl Page {
    pub(super) fn make_dirty(&mut self, mask: u8, now: u64) {
        if self.dirty == 0 {
            // A page that is replaced as a whole hands its content over instead of copying it.
            self.medium = if mask == 0xff { self.current.take() } else { self.current.clone() };
            self.medium_damage = self.damage;
            self.dirtied = now;
        }
        self.dirty |= mask;
    }

    pub(super) fn clean(&mut self) {
        self.medium = None;
        self.dirty = 0;
        self.doomed = 0;
        self.cut = false;
    }

    /// Makes the current content durable, but for what an earlier flush has lost.
    pub(super) fn flush(&mut self) {
        if self.doomed == 0 {
            self.clean();
            return;
        }
        for sector in (0..PAGE / SECTOR).filter(|sector| self.dirty & !self.doomed & (1 << sector) != 0) {
            copy_sector(&mut self.medium, &self.current, sector);
            self.medium_damage = with_bits(self.medium_damage, 1 << sector, self.damage & (1 << sector) != 0);
        }
        self.dirty = self.doomed;
    }

    /// Puts the medium's image of `sectors` back; they are no longer dirty.
    pub(super) fn revert(&mut self, sectors: u8) {
        let sectors = sectors & self.dirty;
        if sectors == self.dirty {
            self.current = self.medium.take();
            self.damage = (self.damage & !sectors) | (self.medium_damage & sectors);
            self.clean();
            return;
        }
        for sector in (0..PAGE / SECTOR).filter(|sector| sectors & (1 << sector) != 0) {
            copy_sector(&mut self.current, &self.medium, sector);
        }
        self.damage = (self.damage & !sectors) | (self.medium_damage & sectors);
        self.dirty &= !sectors;
        self.doomed &= !sectors;
    }
}

fn sectors(position: u64, len: usize) -> Range<u64> {
    position / SECTOR as u64..(position + len as u64).div_ceil(SECTOR as u64)
}

fn sector_mask(first: usize, count: usize) -> u8 {
    (((1u16 << count) - 1) << first) as u8
}

fn with_bits(bits: u8, mask: u8, set: bool) -> u8 {
    if set { bits | mask } else { bits & !mask }
}

fn copy_sector(to: &mut Content, from: &Content, sector: usize) {
    let range = sector * SECTOR..(sector + 1) * SECTOR;
    match from {
        Some(from) => put(to, range.start, &from[range.clone()]),
        None => put(to, range.start, &[0; SECTOR]),
    }
}

fn put(content: &mut Content, within: usize, bytes: &[u8]) {
    if bytes.len() == PAGE {
        if is_zero(bytes) {
            *content = None;
            return;
        }
        match content {
            Some(page) => page.copy_from_slice(bytes),
            None => {
                let copy: Box<[u8]> = bytes.into();
                *content = Some(copy.try_into().expect("a slice of one page"));
            }
        }
        return;
    }
    if content.is_none() && is_zero(bytes) {
        return;
    }
    content.get_or_insert_with(|| Box::new([0; PAGE]))[within..within + bytes.len()].copy_from_slice(bytes);
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}
