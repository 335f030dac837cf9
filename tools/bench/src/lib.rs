// SPDX-License-Identifier: GPL-2.0
//! The figures of `make bench`: what they are, how two runs compare, and pictures of them.

pub mod compare;
pub mod picture;
pub mod report;
