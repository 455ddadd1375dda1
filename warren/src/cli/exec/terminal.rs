//! This command's own terminal.

use std::{io::IsTerminal as _, os::fd::AsRawFd as _};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::proto::v1::TerminalSize;

/// The size of the terminal, if there is one.
pub(super) fn size() -> Option<TerminalSize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    let fds = [std::io::stdout().as_raw_fd(), std::io::stdin().as_raw_fd(), std::io::stderr().as_raw_fd()];
    let found = fds.into_iter().any(|fd| {
        // SAFETY: TIOCGWINSZ writes one winsize to the address, which lives through the call.
        unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) == 0 }
    });
    (found && size.ws_row > 0 && size.ws_col > 0)
        .then(|| TerminalSize { rows: size.ws_row.into(), columns: size.ws_col.into() })
}

/// The terminal passes every key on. As it was before, once this goes out of scope, also when the
/// program panics.
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    /// Nothing when the input is no terminal.
    pub(super) fn enter() -> anyhow::Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone: then there is nothing to restore.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}
