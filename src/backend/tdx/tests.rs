// SPDX-License-Identifier: GPL-2.0

//! KUnit: the instruction. What follows from a status is tested on the host.

use super::status::{
    Answer,
    Verdict, //
};
use kernel::prelude::*;
use privmemfd_kernel::tdx;

#[kunit_tests(privmemfd_tdx)]
mod instruction {
    use super::*;

    /// Where there is no TDX module the instruction faults; where there is one it refuses.
    #[test]
    fn a_seamcall_that_nobody_answers_comes_back() {
        let output = tdx::test_unknown_leaf();
        let answer = Answer {
            status: output.status,
            rcx: output.rcx,
            rdx: output.rdx,
        };
        assert!(matches!(answer.verdict(), Verdict::Lost | Verdict::Refused));
    }
}
