//! The two system calls that have no safe wrapper. All `unsafe` of this crate stands here.

use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{Setter, ioctl};

/// Bytes of an interface's name, with its end.
const NAME_BYTES: usize = 16;

/// `TUNSETIFF` of linux/if_tun.h.
const TUNSETIFF: u32 = 0x4004_54ca;
/// `IFF_TAP | IFF_NO_PI`: Ethernet frames, and nothing before them.
const TAP_WITHOUT_HEADER: u16 = 0x0002 | 0x1000;

/// `EXT4_IOC_SHUTDOWN`, which is XFS's `GOINGDOWN`.
const GOINGDOWN: u32 = 0x8004_587d;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: nothing more is written, not even the journal.
const NO_LOG_FLUSH: u32 = 2;

/// `struct ifreq` as far as `TUNSETIFF` reads it, at its full size.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_BYTES],
    flags: u16,
    rest: [u8; 22],
}

/// Makes `device`, which is /dev/net/tun just opened, the other end of the TAP interface `name` in
/// the calling thread's network namespace.
#[expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]
pub fn attach_tap(device: impl AsFd, name: &str) -> io::Result<()> {
    if name.len() >= NAME_BYTES {
        return Err(io::Error::other("the interface's name is too long"));
    }
    let mut request = InterfaceRequest {
        name: [0; NAME_BYTES],
        flags: TAP_WITHOUT_HEADER,
        rest: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` (40 bytes) behind the pointer, which is
    // the size of `InterfaceRequest`; it keeps no reference to it.
    unsafe { ioctl(device, Setter::<TUNSETIFF, _>::new(request))? };
    Ok(())
}

/// Shuts the file system of `file` down as a power failure would: what was not written yet never
/// will be, and every access fails until it is mounted anew.
#[expect(unsafe_code, reason = "GOINGDOWN has no safe wrapper")]
pub fn shut_down(file: impl AsFd) -> io::Result<()> {
    // SAFETY: GOINGDOWN reads one u32 behind the pointer, and keeps no reference to it.
    unsafe { ioctl(file, Setter::<GOINGDOWN, _>::new(NO_LOG_FLUSH))? };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_size_that_the_kernel_copies() {
        assert_eq!(size_of::<InterfaceRequest>(), 40);
    }

    #[test]
    fn a_name_that_does_not_fit_and_a_file_that_is_no_device_are_errors() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(attach_tap(&file, "sixteen-characters").is_err());
        assert!(attach_tap(&file, "tap0").is_err());
        assert!(shut_down(&file).is_err());
    }
}
