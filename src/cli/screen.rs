//! A part of the terminal that is redrawn in place, or plain lines where there is no terminal.

use std::io::{self, IsTerminal, Write};

use super::Failure;
use super::output;

/// What is assumed of a terminal that does not say its size.
const DEFAULT_SIZE: (usize, usize) = (80, 24);
/// Cursor off; long lines are cut by the terminal instead of wrapped, so that a frame has the height we think.
const ENTER: &str = "\x1b[?25l\x1b[?7l";
/// Both back as they were.
const LEAVE: &str = "\x1b[?7h\x1b[?25h";

/// The live part of the screen. The last frame stays when it is dropped, with the cursor below it.
#[derive(Debug)]
pub(super) struct Screen {
    live: bool,
    colour: bool,
    /// Lines of the last frame, above the cursor.
    drawn: usize,
    size: (usize, usize),
}

impl Screen {
    /// Takes stdout, if it is a terminal that can be redrawn.
    pub(super) fn new() -> Result<Self, Failure> {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let live = io::stdout().is_terminal() && !dumb;
        let colour = live && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if live {
            output::result(ENTER)?;
        }
        Ok(Self { live, colour, drawn: 0, size: size() })
    }

    /// Whether frames are redrawn in place.
    pub(super) fn live(&self) -> bool {
        self.live
    }

    /// Whether colours are wanted.
    pub(super) fn colour(&self) -> bool {
        self.colour
    }

    /// Columns to lay out for; `None`: no terminal, so nothing has to be cut.
    pub(super) fn width(&self) -> Option<usize> {
        self.live.then_some(self.size.0)
    }

    /// Shows a frame in place of the last one.
    ///
    /// # Errors
    /// When stdout is broken.
    pub(super) fn draw(&mut self, lines: &[String]) -> Result<(), Failure> {
        if !self.live {
            return output::line(&lines.join("\n"));
        }
        let size = size();
        let mut frame = String::new();
        if size != self.size {
            // Terminals reflow on a change of size: where the old frame is now, nobody knows.
            frame.push_str("\x1b[2J\x1b[H");
            self.drawn = 0;
            self.size = size;
        }
        if self.drawn > 0 {
            frame.push_str(&format!("\x1b[{}A", self.drawn));
        }
        let shown = lines.len().min(self.size.1.saturating_sub(1));
        for line in lines.iter().take(shown) {
            frame.push_str(&format!("\r{line}\x1b[K\n"));
        }
        frame.push_str("\x1b[J");
        self.drawn = shown;
        output::result(&frame)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.live {
            let mut stdout = io::stdout().lock();
            let _ = stdout.write_all(LEAVE.as_bytes());
            let _ = stdout.flush();
        }
    }
}

/// Columns and lines of the terminal.
fn size() -> (usize, usize) {
    let Some((width, height)) = terminal_size::terminal_size() else { return DEFAULT_SIZE };
    // Some pseudo-terminals say 0 × 0.
    match (usize::from(width.0), usize::from(height.0)) {
        (0, _) | (_, 0) => DEFAULT_SIZE,
        size => size,
    }
}
