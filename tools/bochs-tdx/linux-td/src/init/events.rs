// SPDX-License-Identifier: GPL-2.0
//! The log of what the firmware has measured: the content behind the ACPI table CCEL, in
//! the TCG's format (TCG PC Client Platform Firmware Profile, "crypto agile log").

use std::io;

const SHA384: u16 = 0x000C;
const SHA384_SIZE: usize = 48;
/// Register 0 is MRTD; 1 to 4 are the runtime registers (UEFI, EFI_CC_EVENT).
const FIRST_RUNTIME: u32 = 1;

/// One measurement.
pub struct Event {
    /// The runtime measurement register that it went to.
    pub register: u32,
    /// What the register was extended with.
    pub digest: [u8; SHA384_SIZE],
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> io::Result<&'a [u8]> {
        if n > self.0.len() {
            return Err(io::Error::other("the event log is cut off"));
        }
        let (head, rest) = self.0.split_at(n);
        self.0 = rest;
        Ok(head)
    }
    fn u16(&mut self) -> io::Result<u16> {
        let b = self.take(2)?;
        Ok(u16::from_le_bytes([b[0], b[1]]))
    }
    fn u32(&mut self) -> io::Result<u32> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
}

/// The measurements of a log, in their order.
///
/// # Errors
/// It is no such log.
pub fn parse(log: &[u8]) -> io::Result<Vec<Event>> {
    let mut r = Reader(log);
    // The first event, in the old format, is the header; EV_NO_ACTION.
    let (_, kind, _) = (r.u32()?, r.u32()?, r.take(20)?);
    let size = r.u32()? as usize;
    let header = r.take(size)?;
    if kind != 3 || !header.starts_with(b"Spec ID Event03") {
        return Err(io::Error::other("no event log of the crypto agile format"));
    }
    let mut events = Vec::new();
    while r.0.len() >= 8 {
        let (register, kind) = (r.u32()?, r.u32()?);
        if register == u32::MAX || (register, kind) == (0, 0) {
            break;
        }
        let mut digest = None;
        for _ in 0..r.u32()? {
            match r.u16()? {
                SHA384 => {
                    let mut d = [0; SHA384_SIZE];
                    d.copy_from_slice(r.take(SHA384_SIZE)?);
                    digest = Some(d);
                }
                other => return Err(io::Error::other(format!("hash {other:#x} is unknown"))),
            }
        }
        let size = r.u32()? as usize;
        r.take(size)?;
        if let (Some(digest), Some(register)) = (digest, register.checked_sub(FIRST_RUNTIME)) {
            events.push(Event { register, digest });
        }
    }
    Ok(events)
}
