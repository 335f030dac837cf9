// SPDX-License-Identifier: GPL-2.0
//! Kernel, KVM with the series, module.

use std::fs::{self, File};
use std::path::Path;

use kvm_ioctls::Kvm;
use privmemfd_ioctls::{DEVICE, GUEST_MEMFD_FLAG_MOVABLE};

use super::Check;

/// The series is for this one.
const RELEASE: &str = "7.3";
const CAP_VM_TYPES: u64 = 235;
const CAP_GUEST_MEMFD_FLAGS: u64 = 244;
/// Types of VMs that have private memory which can move: number and name.
const VM_TYPES: [(u64, &str); 2] = [(1, "SW_PROTECTED"), (5, "TDX")];

pub(super) fn checks(tdx: bool) -> Vec<Check> {
    let mut checks = vec![
        kernel(),
        Check::needs(
            "memory hotplug",
            exists("/sys/devices/system/memory/block_size_bytes"),
            "use a kernel with CONFIG_MEMORY_HOTREMOVE",
        ),
        Check::needs(
            "what frames are used for",
            exists("/proc/kpageflags"),
            "use a kernel with CONFIG_PROC_PAGE_MONITOR",
        ),
        kvm(tdx),
        Check::needs(
            "privmemfd is loaded",
            // The kernel shows no parameter of a module in Rust.
            exists("/sys/module/privmemfd")
                .map(|_| "VMMs ask for it, or all are served (serve_all=1)".into()),
            "insmod privmemfd.ko, after KVM's modules",
        ),
    ];
    if exists("/sys/module/privmemfd").is_none() {
        return checks;
    }
    checks.push(device());
    checks.extend(series());
    checks.push(Check::needs(
        "its counters can be read",
        readable("/sys/kernel/debug/privmemfd/files_created"),
        "as root: mount -t debugfs debugfs /sys/kernel/debug",
    ));
    let events = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
        .into_iter()
        .find_map(|root| exists(&format!("{root}/events/privmemfd")));
    checks.push(match events {
        Some(_) => Check::ok("its trace events are there", ""),
        None => Check::note(
            "its trace events are not there",
            "privmemctl trace and latency need them",
            "as root: mount -t tracefs tracefs /sys/kernel/tracing",
        ),
    });
    checks
}

fn exists(path: &str) -> Option<String> {
    Path::new(path).exists().then(String::new)
}

fn readable(path: &str) -> Option<String> {
    fs::read(path).ok().map(|_| String::new())
}

fn kernel() -> Check {
    let name = rustix::system::uname();
    let machine = name.machine().to_string_lossy().into_owned();
    let release = name.release().to_string_lossy().into_owned();
    kernel_of(&machine, &release)
}

fn kernel_of(machine: &str, release: &str) -> Check {
    let found = format!("Linux {release}, {machine}");
    let fits = release
        .strip_prefix(RELEASE)
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()));
    if machine != "x86_64" {
        Check::missing("kernel", found, "use an x86-64 machine")
    } else if !fits {
        let next = format!("boot Linux {RELEASE}; the KVM series is for it");
        Check::missing("kernel", found, next)
    } else {
        Check::ok("kernel", found)
    }
}

fn kvm(tdx: bool) -> Check {
    let vendor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flag = |flag: &str| {
        let flags = vendor.lines().find(|l| l.starts_with("flags"));
        flags.is_some_and(|l| l.split_whitespace().any(|f| f == flag))
    };
    let next = match (flag("vmx"), flag("svm")) {
        (true, _) if tdx => "modprobe irqbypass; insmod kvm.ko && insmod kvm-intel.ko tdx=1",
        (true, _) => "modprobe irqbypass; insmod kvm.ko && insmod kvm-intel.ko",
        (_, true) => "modprobe irqbypass; insmod kvm.ko && insmod kvm-amd.ko",
        _ => "enable virtualization in the firmware: the CPU shows neither vmx nor svm",
    };
    Check::needs("KVM is loaded", exists("/dev/kvm"), next)
}

fn device() -> Check {
    const WHAT: &str = "its device is there";
    match File::options().read(true).write(true).open(DEVICE) {
        Ok(_) => Check::ok(WHAT, DEVICE),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Check::note(
            WHAT,
            format!("{DEVICE}: not for this user"),
            "run it as root",
        ),
        Err(e) => Check::missing(WHAT, format!("{DEVICE}: {e}"), "insmod privmemfd.ko"),
    }
}

/// Whether KVM takes our files, as a VM of each type says.
fn series() -> Vec<Check> {
    const WHAT: &str = "KVM takes its files";
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(e) if e.errno() == rustix::io::Errno::ACCESS.raw_os_error() => {
            return vec![Check::note(
                WHAT,
                "/dev/kvm: not for this user",
                "run it as root",
            )]
        }
        Err(_) => return vec![Check::missing(WHAT, "no KVM", "load KVM, see above")],
    };
    let types = kvm.check_extension_raw(CAP_VM_TYPES);
    let offered: Vec<_> = VM_TYPES
        .into_iter()
        .filter(|(number, _)| types & 1 << number != 0)
        .collect();
    if offered.is_empty() {
        return vec![Check::missing(
            WHAT,
            "it offers no VM with private memory",
            "load kvm-intel.ko with tdx=1, or build KVM with CONFIG_KVM_SW_PROTECTED_VM",
        )];
    }
    let check = |(number, name): (u64, &str)| {
        let what = format!("{WHAT} in {name} VMs");
        match kvm.create_vm_with_type(number) {
            Err(e) => Check::note(&what, format!("such a VM cannot be made: {e}"), ""),
            Ok(vm) => {
                let flags = u64::try_from(vm.check_extension_raw(CAP_GUEST_MEMFD_FLAGS));
                if flags.is_ok_and(|flags| flags & GUEST_MEMFD_FLAG_MOVABLE != 0) {
                    Check::ok(&what, "")
                } else {
                    Check::missing(
                        &what,
                        "no connection between this KVM and the module",
                        "make kvm-modules KDIR= KSRC=; rmmod privmemfd; load these KVM modules, \
                         then privmemfd.ko (dmesg | grep 'KVM binding' says why)",
                    )
                }
            }
        }
    };
    offered.into_iter().map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Health;

    #[test]
    fn only_the_kernel_of_the_series_will_do() {
        for (release, health) in [
            ("7.3.4", Health::Ok),
            ("7.3", Health::Ok),
            ("7.3-rc1", Health::Ok),
            ("7.30.1", Health::Missing),
            ("7.2.13", Health::Missing),
        ] {
            assert_eq!(kernel_of("x86_64", release).health, health, "{release}");
        }
        assert_eq!(kernel_of("aarch64", "7.3.4").health, Health::Missing);
    }
}
