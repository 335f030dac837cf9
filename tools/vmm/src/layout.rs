// SPDX-License-Identifier: GPL-2.0
//! Where things are in a test guest, and the image of its shared memory.
//!
//! ```text
//! 0x0000_1000  control blocks, one per vCPU        \
//! 0x0000_2000  GDT                                  | low memory, shared
//! 0x0000_3000  page tables: identity, 2 MiB pages   | with the host
//! 0x0001_0000  guest code                          /
//! 0x1_0000_0000  private memory
//! ```

use crate::guest;

/// Bytes of shared memory at guest address 0.
pub const LOW_SIZE: u64 = 2 << 20;
/// First control block.
pub const CTL_BASE: u64 = 0x1000;
/// Bytes from one control block to the next.
pub const CTL_STEP: u64 = 0x100;
/// vCPUs a guest can have.
pub const MAX_VCPUS: u64 = 16;
/// The descriptor table.
pub const GDT: u64 = 0x2000;
/// The top-level page table.
pub const PML4: u64 = 0x3000;
const PDPT: u64 = 0x4000;
const PD: u64 = 0x5000;
/// GiB that the guest's page tables map one to one.
pub const MAPPED_GIB: u64 = 8;
/// The guest code.
pub const CODE: u64 = 0x1_0000;
/// Where private memory starts, by convention.
pub const PRIVATE_BASE: u64 = 4 << 30;
/// Most private memory a guest can reach.
pub const PRIVATE_MAX: u64 = (MAPPED_GIB << 30) - PRIVATE_BASE;

/// Code and data descriptors for 64-bit mode.
pub const GDT_ENTRIES: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
/// Selector of the code segment.
pub const CODE_SELECTOR: u16 = 8;
/// Selector of the data segment.
pub const DATA_SELECTOR: u16 = 16;

const PRESENT_WRITE: u64 = 0b11;
// Accessed and dirty are set at once, so that the CPU has nothing to write.
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const TABLE: u64 = PRESENT_WRITE | ACCESSED;
const LEAF: u64 = TABLE | DIRTY | LARGE;

/// The content of low memory, up to the end of the code.
pub fn low_image() -> Vec<u8> {
    let code = guest::code();
    let mut image = vec![0; CODE as usize + code.len()];
    let mut put = |at: u64, value: u64| {
        image[at as usize..at as usize + 8].copy_from_slice(&value.to_le_bytes());
    };
    for (i, entry) in GDT_ENTRIES.iter().enumerate() {
        put(GDT + 8 * i as u64, *entry);
    }
    put(PML4, PDPT | TABLE);
    for gib in 0..MAPPED_GIB {
        put(PDPT + 8 * gib, (PD + gib * 4096) | TABLE);
    }
    for i in 0..MAPPED_GIB * 512 {
        put(PD + 8 * i, (i << 21) | LEAF);
    }
    image[CODE as usize..].copy_from_slice(code);
    image
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(image: &[u8], table: u64, index: u64) -> u64 {
        let at = (table + 8 * index) as usize;
        u64::from_le_bytes(image[at..at + 8].try_into().unwrap())
    }

    /// Walks the tables as the CPU does.
    fn translate(image: &[u8], addr: u64) -> Option<u64> {
        let mut table = PML4;
        for shift in [39, 30, 21] {
            let e = entry(image, table, (addr >> shift) & 511);
            if e & 1 == 0 {
                return None;
            }
            if e & LARGE != 0 {
                assert_eq!(shift, 21);
                return Some((e & !0x1f_ffff) | (addr & 0x1f_ffff));
            }
            table = e & !0xfff;
        }
        None
    }

    proptest! {
        #[test]
        fn every_mapped_address_is_itself(addr in 0..MAPPED_GIB << 30) {
            prop_assert_eq!(translate(&low_image(), addr), Some(addr));
        }

        #[test]
        fn nothing_else_is_mapped(addr in MAPPED_GIB << 30..1u64 << 47) {
            prop_assert_eq!(translate(&low_image(), addr), None);
        }
    }

    #[test]
    fn parts_of_low_memory_do_not_overlap() {
        const { assert!(CTL_BASE + MAX_VCPUS * CTL_STEP <= GDT) };
        const { assert!(PD + MAPPED_GIB * 4096 <= CODE) };
        assert!(low_image().len() as u64 <= LOW_SIZE);
    }
}
