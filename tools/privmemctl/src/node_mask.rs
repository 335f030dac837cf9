// SPDX-License-Identifier: GPL-2.0
//! NUMA nodes as mbind() and set_mempolicy() take them.

/// Nodes that the kernel can have at most: `CONFIG_NODES_SHIFT` is 10 or less.
const NODES: usize = 1024;

/// Nodes of a memory policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeMask([u64; NODES / 64]);

impl NodeMask {
    /// What is to be said of its size: the kernel reads one bit less.
    pub const MAXNODE: usize = NODES + 1;

    /// No node.
    pub const fn none() -> Self {
        Self([0; NODES / 64])
    }

    /// This one.
    ///
    /// # Panics
    ///
    /// There is no node of such a number.
    pub fn of(node: u32) -> Self {
        let mut mask = Self::none();
        mask.0[node as usize / 64] = 1 << (node % 64);
        mask
    }

    /// Where the kernel reads it, [`Self::MAXNODE`] less one bits.
    pub fn as_ptr(&self) -> *const u64 {
        self.0.as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_a_bit_that_the_kernel_reads() {
        let bit = |node| {
            let mask = NodeMask::of(node);
            let word = mask.0.iter().position(|word| *word != 0).unwrap();
            64 * word + mask.0[word].trailing_zeros() as usize
        };
        assert_eq!([0, 63, 64, 1023].map(bit), [0, 63, 64, 1023]);
        assert!(bit(1023) < NodeMask::MAXNODE - 1);
        assert_eq!(NodeMask::none().0, [0; 16]);
    }
}
