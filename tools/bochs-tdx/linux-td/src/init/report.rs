// SPDX-License-Identifier: GPL-2.0
//! The TDREPORT, from /dev/tdx_guest (Linux `include/uapi/linux/tdx-guest.h`). Places of
//! its fields: Intel TDX module 1.5 ABI specification, TDREPORT_STRUCT.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;

const DATA: usize = 64;
const REPORT: usize = 1024;
/// `struct tdx_report_req`, and the number of its ioctl: _IOWR('T', 1, ...).
#[repr(C)]
struct Request {
    data: [u8; DATA],
    report: [u8; REPORT],
}
const GET_REPORT0: libc::c_ulong =
    3 << 30 | (size_of::<Request>() as libc::c_ulong) << 16 | (b'T' as libc::c_ulong) << 8 | 1;

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// The TD's report about itself, with some data of the caller's in it.
pub fn get(data: &[u8]) -> io::Result<[u8; REPORT]> {
    let device = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/tdx_guest")?;
    let mut request = Request {
        data: [0; DATA],
        report: [0; REPORT],
    };
    let n = data.len().min(DATA);
    request.data[..n].copy_from_slice(&data[..n]);
    // SAFETY: The request is of the ioctl's type and lives during the call.
    if unsafe { libc::ioctl(device.as_raw_fd(), GET_REPORT0, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if request.report[128..128 + DATA] != request.data {
        return Err(io::Error::other(
            "the report has other data than it was given",
        ));
    }
    Ok(request.report)
}

/// Names and values of the fields that are looked at.
pub fn fields(report: &[u8; REPORT]) -> Vec<(String, String)> {
    const INFO: usize = 512;
    let at = |from: usize, n: usize| hex(&report[INFO + from..INFO + from + n]);
    let mut all = vec![
        ("attributes".into(), at(0, 8)),
        ("xfam".into(), at(8, 8)),
        ("mrtd".into(), at(16, 48)),
        ("mrconfigid".into(), at(64, 48)),
    ];
    for i in 0..4 {
        all.push((format!("rtmr{i}"), at(208 + 48 * i, 48)));
    }
    let mac = String::from_utf8_lossy(&report[224..256]).into_owned();
    all.push(("mac".into(), mac));
    all
}
