//! What is shown again and again in one place of a terminal.

use std::os::fd::AsRawFd as _;

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

/// Text in the place of the one before: from the top, each line to its end but no longer than the screen is
/// wide, as many as it has room for, and nothing of the last text below.
pub(super) fn frame(text: &str, size: Option<TerminalSize>) -> String {
    let no_end = TerminalSize { rows: u32::MAX, columns: u32::MAX };
    let TerminalSize { rows, columns } = size.unwrap_or(no_end);
    let mut frame = String::from("\x1b[H");
    // The last line is the cursor's.
    for line in text.lines().take(rows.saturating_sub(1) as usize) {
        frame.extend(line.chars().take(columns as usize));
        frame.push_str("\x1b[K\n");
    }
    frame.push_str("\x1b[J");
    frame
}

/// How many rows each of some lists gets of a screen that has room for `rows`: as many as the others while it
/// has them.
pub(super) fn shares<const N: usize>(mut rows: usize, lists: [usize; N]) -> [usize; N] {
    let mut shares = [0; N];
    while rows > 0 && shares != lists {
        for (share, list) in shares.iter_mut().zip(lists) {
            if *share < list && rows > 0 {
                (*share, rows) = (*share + 1, rows - 1);
            }
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_the_screen() {
        let size = |rows, columns| Some(TerminalSize { rows, columns });
        let text = "one line\ntwo\nthree\n";
        assert_eq!(frame(text, size(3, 5)), "\x1b[Hone l\x1b[K\ntwo\x1b[K\n\x1b[J");
        assert_eq!(frame(text, None).matches("\x1b[K\n").count(), 3);
        assert_eq!(frame(text, size(1, 80)), "\x1b[H\x1b[J");
    }

    #[test]
    fn a_screen_is_shared_evenly_and_to_the_last_row() {
        assert_eq!(shares(9, [20, 20, 20]), [3, 3, 3]);
        assert_eq!(shares(10, [2, 20, 20]), [2, 4, 4]);
        assert_eq!(shares(2, [5, 5, 5]), [1, 1, 0]);
        assert_eq!(shares(100, [1, 2, 3]), [1, 2, 3]);
        assert_eq!(shares(0, [1]), [0]);
    }
}
