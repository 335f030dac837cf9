// SPDX-License-Identifier: GPL-2.0
//! The VMMs: programs of others that nothing was changed in, and what they are told.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::str;

use anyhow::{ensure, Context};
use clap::ValueEnum;
use serde::Serialize;

/// Which one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Vmm {
    /// Debian's QEMU
    #[default]
    Qemu,
    /// Alioth, from crates.io
    Alioth,
}

/// TD attribute SEPT_VE_DISABLE, without which Linux does not boot (Intel TDX module 1.5 ABI
/// specification, ATTRIBUTES).
const SEPT_VE_DISABLE: u64 = 1 << 28;
/// The line to the job: a terminal.
const LINE: &str = "/dev/ttyS1";

/// What a TD is made of.
pub struct Setup<'a> {
    /// What runs it.
    pub vmm: Vmm,
    /// Where the parts are.
    pub parts: &'a Path,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// MiB of memory.
    pub mib: u64,
    /// Kernel command line.
    pub append: &'a str,
    /// The TD's disk.
    pub disk: &'a Path,
    /// Everything the TD says goes there too.
    pub log: &'a Path,
}

impl Setup<'_> {
    fn part(&self, name: &str) -> std::path::PathBuf {
        self.parts.join(name)
    }

    fn qemu(&self) -> Command {
        let folder = self.part("qemu");
        // Debian's QEMU, with the C library that it was linked with.
        let mut c = Command::new(folder.join("ld-linux-x86-64.so.2"));
        c.arg("--library-path").arg(&folder);
        c.arg(folder.join("qemu-system-x86_64"));
        c.arg("-L").arg(&folder);
        c.args(["-accel", "kvm", "-cpu", "host"]);
        c.args(["-smp", &self.vcpus.to_string()]);
        c.args(["-m", &format!("{}M", self.mib)]);
        c.args(["-object", "tdx-guest,id=td", "-machine"]);
        c.arg("q35,kernel-irqchip=split,confidential-guest-support=td");
        c.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        let disk = self.disk.display();
        c.arg("-drive")
            .arg(format!("if=none,id=d,format=raw,cache=unsafe,file={disk}"));
        c.arg("-device");
        c.arg("virtio-blk-pci,drive=d,disable-legacy=on,iommu_platform=on");
        c.arg("-bios").arg(self.part("OVMF.fd"));
        c.arg("-kernel").arg(self.part("vmlinuz"));
        c.arg("-initrd").arg(self.part("initrd"));
        c.args(["-append", self.append]);
        c
    }

    fn alioth(&self) -> Command {
        let mut c = Command::new(self.part("alioth"));
        // Its firmware may have something to say.
        c.args(["--log-spec", "info,alioth::device::fw_dbg=debug", "boot"]);
        c.arg("--coco").arg(format!("tdx,attr={SEPT_VE_DISABLE}"));
        c.arg("--cpu").arg(format!("count={}", self.vcpus));
        c.arg("--memory").arg(format!("size={}M", self.mib));
        c.arg("--blk")
            .arg(format!("file,path={}", self.disk.display()));
        c.arg("--firmware").arg(self.part("OVMF.fd"));
        c.arg("--kernel").arg(self.part("vmlinuz"));
        c.arg("--initramfs").arg(self.part("initrd"));
        c.args(["--cmdline", self.append]);
        c
    }

    /// Starts it. The TD's serial line is its output, and where it takes what is typed.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self) -> io::Result<(Child, Keys)> {
        let mut command = match self.vmm {
            Vmm::Qemu => self.qemu(),
            Vmm::Alioth => self.alioth(),
        };
        command.stdout(Stdio::piped());
        if self.vmm == Vmm::Qemu {
            let mut child = command
                .args(["-serial", "stdio"])
                .stdin(Stdio::piped())
                .spawn()?;
            let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
            return Ok((child, Keys::Pipe(pipe)));
        }
        // Alioth wants a terminal. The kernels that run here have no pseudo terminals.
        let line = File::options().read(true).write(true).open(LINE)?;
        let child = command.stdin(line.try_clone()?).spawn()?;
        Ok((child, Keys::Line(line)))
    }

    /// Runs it with a shell on this program's own input and output, until it ends. The
    /// answer is the shell's exit status, if it has ended before the TD did.
    ///
    /// # Errors
    /// The VMM cannot be started, or fails.
    pub fn shell(&self) -> anyhow::Result<Option<u8>> {
        let mut command = match self.vmm {
            Vmm::Qemu => self.qemu(),
            Vmm::Alioth => self.alioth(),
        };
        if self.vmm == Vmm::Qemu {
            // All keys are the TD's, but for Ctrl-A: h tells what it can do.
            command.args(["-chardev", "stdio,id=line,mux=on,signal=off"]);
            command.args(["-serial", "chardev:line", "-mon", "chardev=line"]);
        }
        let status = command.status().context("cannot start the VMM")?;
        ensure!(status.success(), "the VMM: {status}");
        let disk = fs::read(self.disk).context("cannot read the TD's disk")?;
        let first = disk.split(|b| *b == b'\n').next().unwrap_or_default();
        Ok(str::from_utf8(first)
            .ok()
            .and_then(|text| text.parse().ok()))
    }
}

/// A VMM's input.
pub enum Keys {
    /// What is written there.
    Pipe(ChildStdin),
    /// What is typed on a serial line that nobody types on.
    Line(File),
}

impl Keys {
    /// Types some text.
    ///
    /// # Errors
    /// Nobody is there to read it.
    pub fn type_in(&mut self, text: &str) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.write_all(text.as_bytes()).and_then(|()| pipe.flush()),
            Self::Line(line) => text.bytes().try_for_each(|key| {
                // SAFETY: The key is a byte that lives during the call, which reads it.
                let failed =
                    unsafe { libc::ioctl(line.as_raw_fd(), libc::TIOCSTI, &raw const key) } != 0;
                if failed {
                    Err(io::Error::last_os_error())
                } else {
                    Ok(())
                }
            }),
        }
    }
}
