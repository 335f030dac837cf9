// SPDX-License-Identifier: GPL-2.0

//! The user interface: raw structures in, checked requests out.
//!
//! The only place that reads or writes user memory. The layout is that of
//! `include/uapi/linux/privmemfd.h`, which is also where meaning and errors are documented.

use crate::refusal::Refusal;
use kernel::{
    ioctl::{
        _IOW,
        _IOWR, //
    },
    page::PAGE_SIZE,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};
use privmemfd_kernel::{
    ffi::uapi as c,
    mm::{
        folio::Zone,
        mapping::{
            Mobility,
            Node, //
        },
        node_online, //
    }, //
};
use zerocopy::IntoBytes;
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes, //
};

pub(crate) const CREATE: u32 = _IOW::<RawCreate>(c::PRIVMEMFD_IOC, 0x00);
pub(crate) const STAT: u32 = _IOWR::<RawStat>(c::PRIVMEMFD_IOC, 0x01);
pub(crate) const PAGES: u32 = _IOW::<RawPages>(c::PRIVMEMFD_IOC, 0x02);
pub(crate) const MOVE: u32 = _IOWR::<RawMove>(c::PRIVMEMFD_IOC, 0x03);

pub(crate) const PFN_NONE: u64 = c::PRIVMEMFD_PFN_NONE as u64;

const MOVABLE: u64 = c::PRIVMEMFD_MOVABLE as u64;
const PINNED: u64 = c::PRIVMEMFD_PINNED as u64;
const CLOEXEC: u64 = c::PRIVMEMFD_CLOEXEC as u64;

const MOVE_STATUS: u32 = c::PRIVMEMFD_MOVE_STATUS;

const NR_ZONES: usize = c::PRIVMEMFD_NR_ZONES as usize;
const NR_REFUSED: usize = c::PRIVMEMFD_NR_REFUSED as usize;

#[repr(C)]
#[derive(Default, FromBytes, Immutable, IntoBytes)]
struct RawCreate {
    size: u64,
    flags: u64,
    node: i32,
    pad: u32,
    reserved: [u64; 4],
}

#[repr(C)]
#[derive(Default, FromBytes, Immutable, IntoBytes)]
struct RawStat {
    node: i32,
    pad: u32,
    flags: u64,
    size: u64,
    pages: u64,
    zone_pages: [u64; NR_ZONES],
    poisoned: u64,
    vms: u64,
    slots: u64,
    relocated: u64,
    refused: [u64; NR_REFUSED],
    reserved: [u64; 4],
}

#[repr(C)]
#[derive(Default, FromBytes, Immutable, IntoBytes)]
struct RawPages {
    offset: u64,
    len: u64,
    pfns: u64,
    reserved: [u64; 4],
}

#[repr(C)]
#[derive(Default, FromBytes, Immutable, IntoBytes)]
struct RawMove {
    offset: u64,
    len: u64,
    node: i32,
    flags: u32,
    moved: u64,
    status: u64,
    reserved: [u64; 3],
}

const _: () = {
    assert!(size_of::<RawCreate>() == c::SIZE_CREATE);
    assert!(size_of::<RawStat>() == c::SIZE_STAT);
    assert!(size_of::<RawPages>() == c::SIZE_PAGES);
    assert!(size_of::<RawMove>() == c::SIZE_MOVE);
};

fn read<T: Default + zerocopy::FromBytes + zerocopy::IntoBytes>(arg: usize) -> Result<T> {
    let mut raw = T::default();
    UserSlice::new(UserPtr::from_addr(arg), size_of::<T>())
        .reader()
        .read_slice(raw.as_mut_bytes())?;
    Ok(raw)
}

fn write<T: zerocopy::IntoBytes + zerocopy::Immutable>(arg: usize, raw: &T) -> Result {
    UserSlice::new(UserPtr::from_addr(arg), size_of::<T>())
        .writer()
        .write_slice(raw.as_bytes())
}

/// Writes a part of an array of user memory, from its element `position` on.
fn write_array<T: zerocopy::IntoBytes + zerocopy::Immutable>(
    array: usize,
    position: usize,
    values: &[T],
) -> Result {
    let addr = position
        .checked_mul(size_of::<T>())
        .and_then(|bytes| array.checked_add(bytes))
        .ok_or(EFAULT)?;
    UserSlice::new(UserPtr::from_addr(addr), size_of_val(values))
        .writer()
        .write_slice(values.as_bytes())
}

/// Refuses anything but zeroes, so that the field can get a meaning one day.
fn reserved(fields: &[u64]) -> Result {
    if fields.iter().any(|field| *field != 0) {
        return Err(EINVAL);
    }
    Ok(())
}

/// A node that the user has named, or all of them.
fn node(nid: i32) -> Result<Option<i32>> {
    match nid {
        c::PRIVMEMFD_NODE_ANY => Ok(None),
        nid if node_online(nid) => Ok(Some(nid)),
        _ => Err(EINVAL),
    }
}

/// Page offsets of a range of bytes, which must be within a file of `size` bytes.
pub(crate) fn page_range(offset: u64, len: u64, size: usize) -> Result<core::ops::Range<usize>> {
    let start = usize::try_from(offset)?;
    let len = usize::try_from(len)?;
    let end = start.checked_add(len).ok_or(EINVAL)?;
    if start % PAGE_SIZE != 0 || len % PAGE_SIZE != 0 || end > size {
        return Err(EINVAL);
    }
    Ok(start / PAGE_SIZE..end / PAGE_SIZE)
}

/// Index into `zone_pages`.
pub(crate) fn zone_index(zone: Zone) -> usize {
    let index = match zone {
        Zone::Dma => c::PRIVMEMFD_ZONE_DMA,
        Zone::Dma32 => c::PRIVMEMFD_ZONE_DMA32,
        Zone::Normal => c::PRIVMEMFD_ZONE_NORMAL,
        Zone::Movable => c::PRIVMEMFD_ZONE_MOVABLE,
        Zone::Device => c::PRIVMEMFD_ZONE_DEVICE,
    };
    index as usize
}

/// Index into `refused`.
fn refused_index(reason: Refusal) -> usize {
    let index = match reason {
        Refusal::Pinned => c::PRIVMEMFD_REFUSED_PINNED,
        Refusal::Busy => c::PRIVMEMFD_REFUSED_BUSY,
        Refusal::Guest => c::PRIVMEMFD_REFUSED_GUEST,
        Refusal::Poison => c::PRIVMEMFD_REFUSED_POISON,
        Refusal::Backend => c::PRIVMEMFD_REFUSED_BACKEND,
        Refusal::NoMemory => c::PRIVMEMFD_REFUSED_NOMEM,
    };
    index as usize
}

/// The `flags` that a file with this mobility was made with.
pub(crate) fn flags_of(mobility: Mobility) -> u64 {
    match mobility {
        Mobility::Movable => MOVABLE,
        Mobility::Pinned => PINNED,
    }
}

/// A checked `PRIVMEMFD_CREATE`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Create {
    pub(crate) size: u64,
    pub(crate) mobility: Mobility,
    pub(crate) node: Node,
    pub(crate) cloexec: bool,
}

impl Create {
    pub(crate) fn read(arg: usize) -> Result<Self> {
        read::<RawCreate>(arg)?.try_into()
    }
}

impl TryFrom<RawCreate> for Create {
    type Error = Error;

    fn try_from(raw: RawCreate) -> Result<Self> {
        reserved(&raw.reserved)?;
        reserved(&[u64::from(raw.pad)])?;
        if raw.flags & !(MOVABLE | PINNED | CLOEXEC) != 0 {
            return Err(EINVAL);
        }
        if raw.size == 0 || raw.size % PAGE_SIZE as u64 != 0 || i64::try_from(raw.size).is_err() {
            return Err(EINVAL);
        }
        Ok(Self {
            size: raw.size,
            mobility: match raw.flags & (MOVABLE | PINNED) {
                MOVABLE => Mobility::Movable,
                PINNED => Mobility::Pinned,
                _ => return Err(EINVAL),
            },
            node: node(raw.node)?.map_or(Node::Any, Node::Prefer),
            cloexec: raw.flags & CLOEXEC != 0,
        })
    }
}

/// A checked `PRIVMEMFD_STAT`.
pub(crate) struct Stat {
    raw: RawStat,
    /// Count the pages of this node only.
    pub(crate) node: Option<i32>,
}

/// What `PRIVMEMFD_STAT` answers.
pub(crate) struct StatAnswer {
    flags: u64,
    size: u64,
    pub(crate) zone_pages: [u64; NR_ZONES],
    pub(crate) poisoned: u64,
    pub(crate) vms: u64,
    pub(crate) slots: u64,
    pub(crate) relocated: u64,
    refused: [u64; NR_REFUSED],
}

impl StatAnswer {
    /// For a file that has refused as often as `refused` says.
    pub(crate) fn new(flags: u64, size: usize, refused: impl Fn(Refusal) -> u64) -> Self {
        let mut counts = [0; NR_REFUSED];
        for reason in Refusal::ALL {
            counts[refused_index(reason)] = refused(reason);
        }
        Self {
            flags,
            size: size as u64,
            zone_pages: [0; NR_ZONES],
            poisoned: 0,
            vms: 0,
            slots: 0,
            relocated: 0,
            refused: counts,
        }
    }
}

impl Stat {
    pub(crate) fn read(arg: usize) -> Result<Self> {
        let raw = read::<RawStat>(arg)?;
        reserved(&raw.reserved)?;
        reserved(&[u64::from(raw.pad)])?;
        let node = node(raw.node)?;
        Ok(Self { raw, node })
    }

    pub(crate) fn answer(self, arg: usize, answer: &StatAnswer) -> Result {
        let raw = RawStat {
            flags: answer.flags,
            size: answer.size,
            pages: answer.zone_pages.iter().sum(),
            zone_pages: answer.zone_pages,
            poisoned: answer.poisoned,
            vms: answer.vms,
            slots: answer.slots,
            relocated: answer.relocated,
            refused: answer.refused,
            ..self.raw
        };
        write(arg, &raw)
    }
}

/// A checked `PRIVMEMFD_PAGES`.
pub(crate) struct Pages {
    pub(crate) range: core::ops::Range<usize>,
    pfns: usize,
}

impl Pages {
    pub(crate) fn read(arg: usize, size: usize) -> Result<Self> {
        let raw = read::<RawPages>(arg)?;
        reserved(&raw.reserved)?;
        Ok(Self {
            range: page_range(raw.offset, raw.len, size)?,
            pfns: usize::try_from(raw.pfns)?,
        })
    }

    /// Writes page frame numbers; `position` counts from the start of the range.
    pub(crate) fn write(&self, position: usize, pfns: &[u64]) -> Result {
        write_array(self.pfns, position, pfns)
    }
}

/// A checked `PRIVMEMFD_MOVE`.
pub(crate) struct MoveRequest {
    raw: RawMove,
    pub(crate) range: core::ops::Range<usize>,
    /// Where to; `None` is any new place.
    pub(crate) node: Option<i32>,
    statuses: Option<usize>,
}

impl MoveRequest {
    pub(crate) fn read(arg: usize, size: usize) -> Result<Self> {
        Self::check(read(arg)?, size)
    }

    fn check(raw: RawMove, size: usize) -> Result<Self> {
        reserved(&raw.reserved)?;
        let statuses = match raw.flags {
            0 => {
                reserved(&[raw.status])?;
                None
            }
            MOVE_STATUS => Some(usize::try_from(raw.status)?),
            _ => return Err(EINVAL),
        };
        Ok(Self {
            range: page_range(raw.offset, raw.len, size)?,
            node: node(raw.node)?,
            statuses,
            raw,
        })
    }

    /// Whether the caller wants to know how each page has ended, and to go on past those that
    /// cannot move.
    pub(crate) fn tells_statuses(&self) -> bool {
        self.statuses.is_some()
    }

    /// Writes statuses, if the caller wants them; `position` counts from the start of the range.
    pub(crate) fn write_statuses(&self, position: usize, statuses: &[i32]) -> Result {
        match self.statuses {
            Some(array) => write_array(array, position, statuses),
            None => Ok(()),
        }
    }

    /// Tells how many pages were moved.
    pub(crate) fn answer(self, arg: usize, moved: u64) -> Result {
        write(arg, &RawMove { moved, ..self.raw })
    }
}

#[kunit_tests(privmemfd_uapi)]
mod tests {
    use super::*;

    fn create() -> RawCreate {
        RawCreate {
            size: PAGE_SIZE as u64,
            flags: MOVABLE,
            node: c::PRIVMEMFD_NODE_ANY,
            ..RawCreate::default()
        }
    }

    #[test]
    fn create_takes_exactly_one_mobility() {
        assert!(Create::try_from(create()).is_ok());
        for flags in [0, MOVABLE | PINNED, CLOEXEC] {
            let raw = RawCreate { flags, ..create() };
            assert_eq!(Create::try_from(raw), Err(EINVAL));
        }
    }

    #[test]
    fn create_refuses_every_unknown_flag() {
        for bit in 3..64 {
            let flags = MOVABLE | (1 << bit);
            let raw = RawCreate { flags, ..create() };
            assert_eq!(Create::try_from(raw), Err(EINVAL));
        }
    }

    #[test]
    fn create_refuses_reserved_fields() {
        let raw = RawCreate { pad: 1, ..create() };
        assert_eq!(Create::try_from(raw), Err(EINVAL));
        for i in 0..4 {
            let mut raw = create();
            raw.reserved[i] = 1;
            assert_eq!(Create::try_from(raw), Err(EINVAL));
        }
    }

    #[test]
    fn create_refuses_sizes_no_file_has() {
        for size in [0, 1, PAGE_SIZE as u64 + 1, 1 << 63, u64::MAX] {
            let raw = RawCreate { size, ..create() };
            assert_eq!(Create::try_from(raw), Err(EINVAL));
        }
    }

    fn check_move(raw: RawMove) -> Result<bool> {
        MoveRequest::check(raw, 4 * PAGE_SIZE).map(|request| request.tells_statuses())
    }

    fn a_move() -> RawMove {
        RawMove {
            len: PAGE_SIZE as u64,
            node: c::PRIVMEMFD_NODE_ANY,
            ..RawMove::default()
        }
    }

    #[test]
    fn move_takes_an_array_only_with_its_flag() {
        let status = 0x1000;
        let flags = MOVE_STATUS;
        assert_eq!(check_move(a_move()), Ok(false));
        assert_eq!(check_move(RawMove { flags, ..a_move() }), Ok(true));
        assert_eq!(
            check_move(RawMove {
                flags,
                status,
                ..a_move()
            }),
            Ok(true)
        );
        assert_eq!(check_move(RawMove { status, ..a_move() }), Err(EINVAL));
    }

    #[test]
    fn move_refuses_unknown_flags_and_reserved_fields() {
        for bit in 1..32 {
            for flags in [1 << bit, MOVE_STATUS | 1 << bit] {
                assert_eq!(check_move(RawMove { flags, ..a_move() }), Err(EINVAL));
            }
        }
        for i in 0..3 {
            let mut raw = a_move();
            raw.reserved[i] = 1;
            assert_eq!(check_move(raw), Err(EINVAL));
        }
    }

    #[test]
    fn page_range_stays_within_the_file() {
        let page = PAGE_SIZE as u64;
        let size = 4 * PAGE_SIZE;
        assert_eq!(page_range(page, 3 * page, size), Ok(1..4));
        assert_eq!(page_range(0, 0, size), Ok(0..0));
        for (offset, len) in [
            (1, page),
            (0, page - 1),
            (page, 4 * page),
            (5 * page, 0),
            (u64::MAX - page + 1, page),
            (u64::MAX - page + 1, 2 * page),
        ] {
            assert_eq!(page_range(offset, len, size), Err(EINVAL));
        }
    }
}
