// SPDX-License-Identifier: GPL-2.0
//! What the TDX module makes of CPUID: the leaves it knows, the bits that it fixes, and
//! those that a hypervisor may choose.
//!
//! Source: the tables of the published Intel TDX module 1.5.01
//! (`cpuid_configurations.c`). Module 1.5.05, whose TD_PARAMS have room for six more
//! leaves, also lets the hypervisor choose the topology of leaf 0x1F (Intel TDX module
//! ABI definitions 1.5, TD_CTLS.ENUM_TOPOLOGY); which bits of it is the model's reading.

/// Leaf without subleaves.
pub(super) const NONE: u32 = u32::MAX;
const ALL: u32 = u32::MAX;
const NIL: [u32; 4] = [0; 4];
const FULL: [u32; 4] = [ALL; 4];

/// A leaf that the module knows. EAX, EBX, ECX, EDX each.
pub(super) struct Leaf {
    pub leaf: u32,
    /// First and last subleaf that the row is for.
    pub subs: (u32, u32),
    /// A virtualization exception whatever the TD is.
    pub faulting: bool,
    /// Bits that are 0, or made up while the guest runs.
    pub zero: [u32; 4],
    /// Bits that are 1.
    pub one: [u32; 4],
}

/// A leaf that a hypervisor may configure.
pub(super) struct Choice {
    pub leaf: u32,
    pub sub: u32,
    /// Bits that are what the hypervisor says.
    pub direct: [u32; 4],
    /// Bits that the hypervisor can turn off.
    pub allow: [u32; 4],
}

const fn leaf(leaf: u32, first: u32, last: u32, zero: [u32; 4], one: [u32; 4]) -> Leaf {
    Leaf {
        leaf,
        subs: (first, last),
        faulting: false,
        zero,
        one,
    }
}

const fn faulting(leaf: u32, first: u32, last: u32) -> Leaf {
    Leaf {
        leaf,
        subs: (first, last),
        faulting: true,
        zero: NIL,
        one: NIL,
    }
}

const fn choice(leaf: u32, sub: u32, direct: [u32; 4], allow: [u32; 4]) -> Choice {
    Choice {
        leaf,
        sub,
        direct,
        allow,
    }
}

/// By leaf and subleaf. Any other one is a virtualization exception.
pub(super) const LEAVES: &[Leaf] = &[
    leaf(0, NONE, NONE, [0xFFFF_FFDC, 0, 0, 0], [0x23, 0, 0, 0]),
    leaf(
        1,
        NONE,
        NONE,
        [0xF000_C000, 0xFF00_00FF, 0x801_0060, 0x4012_0400],
        [0, 0, 0x8000_0000, 0x200],
    ),
    leaf(3, NONE, NONE, FULL, NIL),
    leaf(4, 0, 2, [0x3C00, 0, 0, 0x4], NIL),
    leaf(4, 3, 3, [0x3C00, 0, 0, 0xFFFF_FFF8], NIL),
    leaf(4, 4, 4, FULL, NIL),
    leaf(
        5,
        NONE,
        NONE,
        [0xFFFF_0000, 0xFFFF_0000, 0xFFFF_FFFC, 0],
        NIL,
    ),
    faulting(6, NONE, NONE),
    leaf(7, 0, 0, [0, 0x40_4006, 0x643E_8010, 0x22_98C3], NIL),
    leaf(7, 1, 1, [0xFFFF_E2CF, ALL, ALL, ALL], NIL),
    leaf(7, 2, 2, [ALL, ALL, ALL, 0xFFFF_FFC0], NIL),
    leaf(8, NONE, NONE, FULL, NIL),
    leaf(0xA, NONE, NONE, [0, 0, 0, 0xFFFF_6000], NIL),
    leaf(0xD, 0, 0, [0xFFF9_FD18, ALL, 0, ALL], NIL),
    leaf(0xD, 1, 1, [0xFFFF_FFE0, ALL, 0xFFFF_26FF, ALL], NIL),
    leaf(0xD, 2, 18, [0, 0, 0, ALL], NIL),
    leaf(0xE, NONE, NONE, FULL, NIL),
    leaf(0x11, NONE, NONE, FULL, NIL),
    leaf(0x12, NONE, NONE, FULL, NIL),
    leaf(0x13, NONE, NONE, FULL, NIL),
    leaf(0x14, 0, 0, [0, 0xFFFF_FE00, 0x7FFF_FFF0, ALL], NIL),
    leaf(0x14, 1, 1, [0xFFF8, 0, ALL, ALL], NIL),
    leaf(
        0x15,
        NONE,
        NONE,
        [0xFFFF_FFFE, 0, 0xFE82_87BF, ALL],
        [0x1, 0, 0x17D_7840, 0],
    ),
    leaf(
        0x19,
        NONE,
        NONE,
        [0xFFFF_FFF8, 0xFFFF_FFEB, 0xFFFF_FFFD, ALL],
        NIL,
    ),
    leaf(0x1C, NONE, NONE, NIL, NIL),
    leaf(0x1D, 0, 1, NIL, NIL),
    leaf(0x1E, NONE, NONE, NIL, NIL),
    leaf(
        0x1F,
        0,
        5,
        [0xFFFF_FFE0, 0xFFFF_0000, 0xFFFF_0000, ALL],
        NIL,
    ),
    leaf(0x20, NONE, NONE, FULL, NIL),
    leaf(
        0x21,
        0,
        0,
        [ALL, 0x9A8B_91B6, 0xDFDF_DFDF, 0xA7BB_AB93],
        [0, 0x6574_6E49, 0x2020_2020, 0x5844_546C],
    ),
    leaf(0x22, NONE, NONE, FULL, NIL),
    leaf(0x23, 0, 0, [0xFFFF_FFF0, 0, ALL, ALL], NIL),
    leaf(0x23, 1, 1, [0, 0, ALL, ALL], NIL),
    leaf(0x23, 2, 2, FULL, NIL),
    leaf(0x23, 3, 3, [0, ALL, ALL, ALL], NIL),
    leaf(
        0x8000_0000,
        NONE,
        NONE,
        [0x7FFF_FFF7, ALL, ALL, ALL],
        [0x8000_0008, 0, 0, 0],
    ),
    leaf(
        0x8000_0001,
        NONE,
        NONE,
        [ALL, ALL, 0xFFFF_FEDE, 0xD3EF_FFFF],
        NIL,
    ),
    faulting(0x8000_0006, NONE, NONE),
    leaf(0x8000_0007, NONE, NONE, [ALL, ALL, ALL, 0xFFFF_FEFF], NIL),
    leaf(
        0x8000_0008,
        NONE,
        NONE,
        [0xFFFF_0000, 0xFFFF_FDFF, ALL, ALL],
        NIL,
    ),
];

/// In the order of TD_PARAMS.CPUID_CONFIG.
pub(super) const CHOICES: [Choice; 18] = [
    choice(
        1,
        NONE,
        [0xFFF_3FFF, 0xFF_0000, 0, 0],
        [0, 0, 0x3104_4D88, 0xB844_0000],
    ),
    choice(4, 0, [0xFFFF_C3FF, 0xFFFF_F000, ALL, 0xFFFF_FFFB], NIL),
    choice(4, 1, [0xFFFF_C3FF, 0xFFFF_F000, ALL, 0xFFFF_FFFB], NIL),
    choice(4, 2, [0xFFFF_C3FF, 0xFFFF_F000, ALL, 0xFFFF_FFFB], NIL),
    choice(4, 3, [0xFFFF_C3FF, 0xFFFF_F000, ALL, 0x7], NIL),
    choice(7, 0, NIL, [0, 0xDC2B_9B18, 0x241_7F65, 0x5_411C]),
    choice(7, 1, NIL, [0x1D30, 0, 0, 0]),
    choice(0xA, NONE, NIL, NIL),
    choice(0x1C, NONE, NIL, [0xFF, 0, 0, 0]),
    choice(0x8000_0008, NONE, NIL, [0, 0x200, 0, 0]),
    choice(7, 2, NIL, [0, 0, 0, 0x28]),
    choice(0x23, 0, NIL, [0xF, 0, 0, 0]),
    choice(0x1F, 0, TOPOLOGY, NIL),
    choice(0x1F, 1, TOPOLOGY, NIL),
    choice(0x1F, 2, TOPOLOGY, NIL),
    choice(0x1F, 3, TOPOLOGY, NIL),
    choice(0x1F, 4, TOPOLOGY, NIL),
    choice(0x1F, 5, TOPOLOGY, NIL),
];
/// Shift, number of logical processors, level type and number.
const TOPOLOGY: [u32; 4] = [0x1F, 0xFFFF, 0xFFFF, 0];

/// Bits of a leaf that depend on the extended features of the TD: leaf, subleaf, the
/// XFAM bits that all have to be set, and the bits.
pub(super) const BY_XFAM: &[(u32, u32, u64, [u32; 4])] = &[
    (1, NONE, 1 << 2, [0, 0, 0x3000_1000, 0]),
    (7, 0, 1 << 14, [0, 0, 0, 0x20]),
    (7, 0, 1 << 15, [0, 0, 0, 0x8_0000]),
    (7, 0, 1 << 17 | 1 << 18, [0, 0, 0, 0x340_0000]),
    (7, 0, 1 << 9, [0, 0, 0x8, 0]),
    (7, 0, 1 << 11 | 1 << 12, [0, 0, 0x80, 0x10_0000]),
    (7, 0, 1 << 2, [0, 0x20, 0x600, 0]),
    (7, 0, 1 << 8, [0, 0x200_0000, 0, 0]),
    (
        7,
        0,
        1 << 5 | 1 << 6 | 1 << 7,
        [0, 0xDC23_0000, 0x5842, 0x80_010C],
    ),
    (7, 1, 1 << 5 | 1 << 6 | 1 << 7, [0x30, 0, 0, 0]),
    (0xD, 0, 1 << 2, [0x4, 0, 0, 0]),
    (0xD, 0, 1 << 5 | 1 << 6 | 1 << 7, [0xE0, 0, 0, 0]),
    (0xD, 0, 1 << 9, [0x200, 0, 0, 0]),
    (0xD, 0, 1 << 17 | 1 << 18, [0x6_0000, 0, 0, 0]),
    (0xD, 1, 1 << 8, [0, 0, 0x100, 0]),
    (0xD, 1, 1 << 11 | 1 << 12, [0, 0, 0x1800, 0]),
    (0xD, 1, 1 << 14, [0, 0, 0x4000, 0]),
    (0xD, 1, 1 << 15, [0, 0, 0x8000, 0]),
];
