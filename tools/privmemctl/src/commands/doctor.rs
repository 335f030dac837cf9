// SPDX-License-Identifier: GPL-2.0
//! `privmemctl doctor`.

use privmemctl::doctor::examine;

use crate::output::Out;
use crate::End;

#[derive(clap::Args)]
pub struct Args {
    /// Also what TDs need of the software (tools/tdx-smoke looks at the hardware)
    #[arg(long)]
    tdx: bool,
}

pub fn run(args: &Args, out: &mut Out) -> anyhow::Result<End> {
    let report = examine(args.tdx);
    out.put(&report, |w| report.write(w))?;
    Ok(if report.ready { End::Well } else { End::Short })
}
