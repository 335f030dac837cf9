// SPDX-License-Identifier: GPL-2.0
//! The call log: one JSON object per call, in the format of the recordings
//! that the replayer reads.

use core::fmt::{self, Write};

use crate::dispatch::Outcome;
use crate::regs::{leaf_name, Regs};

/// A call that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallRecord {
    /// Logical processor.
    pub lp: usize,
    /// Registers at the call.
    pub input: Regs,
    /// Registers afterwards.
    pub output: Regs,
    /// How it ended.
    pub outcome: Outcome,
    /// The answer is the fault plan's.
    pub injected: bool,
}

impl CallRecord {
    /// Writes the record as line `n` of the sequence `seq`, without a newline.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, w: &mut impl Write, seq: &str, n: u64) -> fmt::Result {
        let i = &self.input;
        let leaf = i.rax as u16;
        write!(w, "{{\"seq\":\"{seq}\",\"n\":{n},\"op\":\"")?;
        match leaf_name(leaf) {
            Some(name) => w.write_str(name)?,
            None => write!(w, "LEAF{leaf}")?,
        }
        write!(w, "\",\"lp\":{},\"in\":{{\"rax\":\"{:#x}\"", self.lp, i.rax)?;
        for (name, v) in [
            ("rcx", i.rcx),
            ("rdx", i.rdx),
            ("r8", i.r8),
            ("r9", i.r9),
            ("r10", i.r10),
            ("r11", i.r11),
        ] {
            if v != 0 {
                write!(w, ",\"{name}\":\"{v:#x}\"")?;
            }
        }
        let o = &self.output;
        match self.outcome {
            Outcome::Entered => w.write_str("},\"out\":{\"entered\":1}}"),
            Outcome::VmFailInvalid => w.write_str("},\"out\":{\"fatal\":1}}"),
            Outcome::Done => {
                write!(
                    w,
                    "}},\"out\":{{\"rax\":\"{:#x}\",\"rcx\":\"{:#x}\",\"rdx\":\"{:#x}\",\"r8\":\"{:#x}\"",
                    o.rax, o.rcx, o.rdx, o.r8
                )?;
                for (name, a, b) in [
                    ("r9", i.r9, o.r9),
                    ("r10", i.r10, o.r10),
                    ("r11", i.r11, o.r11),
                ] {
                    if a != b {
                        write!(w, ",\"{name}\":\"{b:#x}\"")?;
                    }
                }
                w.write_char('}')?;
                if self.injected {
                    w.write_str(",\"injected\":1")?;
                }
                w.write_char('}')
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line() {
        let input = Regs::call3(5, 0xc000, 0x4000_0000, 0x4021_4000);
        let record = CallRecord {
            lp: 0,
            input,
            output: Regs {
                rax: 0,
                rcx: 0x4021_0000,
                rdx: 0,
                ..input
            },
            outcome: Outcome::Done,
            injected: false,
        };
        let mut s = std::string::String::new();
        record.write(&mut s, "S", 2).unwrap();
        assert_eq!(
            s,
            "{\"seq\":\"S\",\"n\":2,\"op\":\"TDH.MEM.PAGE.RELOCATE\",\"lp\":0,\"in\":{\"rax\":\"0x5\",\
             \"rcx\":\"0xc000\",\"rdx\":\"0x40000000\",\"r8\":\"0x40214000\"},\"out\":{\"rax\":\"0x0\",\
             \"rcx\":\"0x40210000\",\"rdx\":\"0x0\",\"r8\":\"0x40214000\"}}"
        );
        s.clear();
        let injected = true;
        CallRecord { injected, ..record }
            .write(&mut s, "S", 2)
            .unwrap();
        assert!(s.ends_with("},\"injected\":1}"), "{s}");
    }
}
