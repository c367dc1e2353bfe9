//! Single key presses from the terminal.

use std::io;
use std::io::IsTerminal as _;
use std::io::Read as _;

use rustix::termios::LocalModes;
use rustix::termios::OptionalActions;
use rustix::termios::Termios;
use rustix::termios::tcgetattr;
use rustix::termios::tcsetattr;
use tokio::sync::mpsc;

use super::Event;

/// While it lives, keys come as events; then the terminal is as it was.
#[derive(Debug)]
pub struct Keys {
    before: Termios,
}

impl Keys {
    /// `None` when there is no terminal to take keys from.
    pub fn take(events: &mpsc::Sender<Event>) -> Option<Keys> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return None;
        }
        let before = tcgetattr(io::stdin()).ok()?;
        let mut modes = before.clone();
        // Key by key and unseen; signals such as Ctrl-C and line ends stay as they are.
        modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        tcsetattr(io::stdin(), OptionalActions::Now, &modes).ok()?;
        let events = events.clone();
        // A thread of its own, because reading a terminal cannot be cancelled.
        std::thread::spawn(move || {
            for byte in io::stdin().lock().bytes() {
                let Ok(byte) = byte else {
                    return;
                };
                if events.blocking_send(Event::Key(byte.into())).is_err() {
                    return;
                }
            }
        });
        Some(Keys { before })
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // If the terminal has gone there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
