// SPDX-License-Identifier: GPL-2.0
//! Where answers go: text for people or JSON, and never a panic because a pipe is closed.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use serde::Serialize;

/// The standard output.
pub struct Out {
    stream: BufWriter<Stdout>,
    json: bool,
    ascii: bool,
}

impl Out {
    pub fn new(json: bool, ascii: bool) -> Self {
        Self {
            stream: BufWriter::new(io::stdout()),
            json,
            ascii,
        }
    }

    /// Whether it goes to a terminal, and to people.
    pub fn is_screen(&self) -> bool {
        !self.json && io::stdout().is_terminal()
    }

    /// Whether programs read it.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// An answer: as JSON over several lines, or as what `text` writes. If nobody reads it,
    /// the exit status still tells.
    pub fn put<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let written = if self.json {
            serde_json::to_writer_pretty(&mut self.stream, value)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(self.stream))
        } else {
            let mut plain = Vec::new();
            text(&mut plain)?;
            self.text(&String::from_utf8_lossy(&plain))
        };
        unless_closed(written.and_then(|()| self.stream.flush()))
    }

    /// One of many answers, now: as a line of JSON, or as text.
    pub fn put_line<T: Serialize>(&mut self, value: &T, text: &str) -> io::Result<()> {
        if self.json {
            serde_json::to_writer(&mut self.stream, value)?;
            writeln!(self.stream)?;
        } else {
            self.text(text)?;
            writeln!(self.stream)?;
        }
        self.stream.flush()
    }

    /// Text, whatever the format is.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        if self.ascii {
            let plain = text.replace('█', "#").replace('░', ".");
            return self.stream.write_all(plain.as_bytes());
        }
        self.stream.write_all(text.as_bytes())
    }

    /// Begins the screen anew.
    pub fn clear_screen(&mut self) -> io::Result<()> {
        self.stream.write_all(b"\x1b[H\x1b[J")
    }

    pub fn flush(&mut self) -> io::Result<()> {
        unless_closed(self.stream.flush())
    }
}

fn unless_closed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Tells something beside the answer; nobody may be listening.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "privmemctl: {text}");
}

/// A line that says how far something has come, on the standard error: in place on a
/// terminal, else a line a second.
pub struct Ticker {
    last: Option<std::time::Instant>,
    shown: bool,
}

impl Ticker {
    pub fn new() -> Self {
        Self {
            last: None,
            shown: false,
        }
    }

    pub fn tick(&mut self, text: impl FnOnce() -> String) {
        let terminal = io::stderr().is_terminal();
        let every = if terminal { 0.1 } else { 1.0 };
        let begun = *self.last.get_or_insert_with(std::time::Instant::now);
        if begun.elapsed().as_secs_f64() < every {
            return;
        }
        self.last = Some(std::time::Instant::now());
        self.shown = terminal;
        let text = text();
        let _ = if terminal {
            write!(io::stderr(), "\r\x1b[K{text}")
        } else {
            writeln!(io::stderr(), "{text}")
        };
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
