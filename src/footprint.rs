//! Gives memory back that only the start of the program needed.
//!
//! The system maps code in blocks of 64 KB, and the start meets most of it once: command line, settings, servers. All of that would
//! count as the memory of a gateway that does nothing, and be the last to be taken when something else needs it.

use std::{fs, io};

use rustix::mm::{Advice, madvise};

/// Breakpoints that a debugger has set are lost: they are changes of pages that are brought back as they stand in the file.
///
/// Has the system take the program's code out of this process's memory, whence it comes back as it is needed: from the file, which is in
/// the system's cache, or from the disk if that had to make room.
///
/// Fails when `/proc` is not there, or the system refuses; nothing is lost then.
pub fn give_back_code() -> io::Result<()> {
    let program = fs::read_link("/proc/self/exe")?;
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        // 55d0c8a00000-55d0c8f00000 r-xp 00340000 08:01 1234  /usr/bin/mcpgate
        let is_code = line.contains(" r-xp ") && line.ends_with(&*program.to_string_lossy());
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let Some((start, end)) = range.filter(|_| is_code) else { continue };
        let [Ok(start), Ok(end)] = [start, end].map(|it| usize::from_str_radix(it, 16)) else { continue };
        forget(start, end - start)?;
    }
    Ok(())
}

#[allow(unsafe_code, reason = "what is said of an address could be wrong of another")]
fn forget(start: usize, length: usize) -> io::Result<()> {
    // SAFETY: these are pages of the program's own file that nobody can write to, so that what the system brings back when one of
    // them is touched is what was there.
    unsafe { madvise(std::ptr::with_exposed_provenance_mut(start), length, Advice::LinuxDontNeed)? };
    Ok(())
}
