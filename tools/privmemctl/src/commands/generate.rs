// SPDX-License-Identifier: GPL-2.0
//! `privmemctl generate DIR`: man pages and completions, for who installs the tool.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::{generate_to, Shell};

use crate::cli::Cli;
use crate::End;

#[derive(clap::Args)]
pub struct Args {
    /// Folder for man/man1/*.1 and completions/{bash,zsh,fish}/
    folder: PathBuf,
}

pub fn run(args: &Args) -> anyhow::Result<End> {
    let man = args.folder.join("man/man1");
    fs::create_dir_all(&man).with_context(|| format!("cannot make {}", man.display()))?;
    clap_mangen::generate_to(Cli::command(), &man)
        .with_context(|| format!("cannot write to {}", man.display()))?;
    for (shell, name) in [
        (Shell::Bash, "bash"),
        (Shell::Zsh, "zsh"),
        (Shell::Fish, "fish"),
    ] {
        let dir = args.folder.join("completions").join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        generate_to(shell, &mut Cli::command(), "privmemctl", &dir)
            .with_context(|| format!("cannot write to {}", dir.display()))?;
    }
    Ok(End::Well)
}
