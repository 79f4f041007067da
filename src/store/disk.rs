//! Why: what the folder of the store lies on decides whether a promise can be kept: how much room is left, and whether a sync reaches a disk of this machine. Never changes anything.

use std::{io, path::Path};

/// File systems that lie on another machine: a sync there promises less, and two servers could open one store.
const NETWORKED: [&str; 14] =
    ["9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gfs2", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"];

/// Bytes that a process like ours may still write below `folder`.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let about = rustix::fs::statvfs(folder)?;
    Ok(about.f_bavail.saturating_mul(about.f_frsize))
}

/// The type of the network file system that `folder` lies on, if it lies on one.
pub fn network_file_system(folder: &Path) -> io::Result<Option<String>> {
    let folder = folder.canonicalize()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(file_system_of(&folder, &mounts).filter(|kind| NETWORKED.contains(&kind.as_str())))
}

/// The type of the file system below the mount that `folder` is in; of several mounts on one place the last counts.
fn file_system_of(folder: &Path, mounts: &str) -> Option<String> {
    let known = mounts.lines().filter_map(|line| {
        // `36 35 98:0 /root /place rw,noatime master:1 - ext3 /dev/root rw`: the optional fields before the dash are any number.
        let (mount, about) = line.split_once(" - ")?;
        let place = unescaped(mount.split(' ').nth(4)?);
        let kind = about.split(' ').next()?;
        folder.starts_with(&place).then(|| (Path::new(&place).components().count(), kind.to_owned()))
    });
    known.max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind)
}

/// The kernel writes a space, a tab, a line break and a backslash of a path as three octal digits.
fn unescaped(place: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"].iter().zip([" ", "\t", "\n", "\\"]).fold(place.to_owned(), |place, (code, char)| place.replace(code, char))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                          30 22 0:25 / /srv rw shared:1 - nfs4 filer:/srv rw\n\
                          31 30 254:1 / /srv/local\\040disk rw - xfs /dev/vdb rw\n\
                          32 22 0:26 / /share rw master:1 shared:2 - cifs //filer/share rw\n\
                          33 22 0:27 / /share rw - ext4 /dev/vdc rw";

    #[test]
    fn the_innermost_mount_counts_and_of_two_on_one_place_the_last() {
        let kind = |folder: &str| file_system_of(Path::new(folder), MOUNTS).unwrap();
        assert_eq!(kind("/var/lib/datasink"), "ext4");
        assert_eq!(kind("/srv/data"), "nfs4");
        assert_eq!(kind("/srvs/data"), "ext4", "not every common beginning is a folder");
        assert_eq!(kind("/srv/local disk/data"), "xfs");
        assert_eq!(kind("/share"), "ext4");
    }

    #[test]
    fn this_machine_answers() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_bytes(folder.path()).unwrap() > 0);
        assert!(free_bytes(&folder.path().join("absent")).is_err());
        network_file_system(folder.path()).unwrap();
    }
}
