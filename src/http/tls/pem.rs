//! Files with certificates and keys, in PEM.
//!
//! What the bytes inside are good for is found out by whoever uses them.
//!
//! **Limit.** A file has at most [`FILE_BYTES_MAX`] bytes.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::error::Error;

/// Largest file that is read: a chain of certificates, or of authorities, has a few dozen kilobytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// All certificates of a PEM file, at least one. `setting` names it; what is wrong with it is an [`Error::Settings`].
pub(crate) fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let shown = path.display();
    let bytes = read_file(setting, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|cause| refused(format!("`{setting}`: `{shown}` is not PEM: {cause}"), ""))?;
    if found.is_empty() {
        let hint = "it has to have a part that begins with `-----BEGIN CERTIFICATE-----` (PEM)";
        return Err(refused(format!("`{setting}`: there is no certificate in `{shown}`"), hint));
    }
    Ok(found)
}

/// The first private key of a PEM file. As with [`certificates`].
pub(crate) fn private_key(setting: &str, path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let bytes = read_file(setting, path)?;
    let is_encrypted = memchr::memmem::find(&bytes, b"ENCRYPTED").is_some();
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        let hint = match is_encrypted {
            true => "take its password off, as `openssl pkey -in FILE -out NEW-FILE` does",
            false => "it has to have a part that begins with `-----BEGIN PRIVATE KEY-----` (PEM)",
        };
        refused(format!("`{setting}`: there is no private key that can be read in `{}`", path.display()), hint)
    })
}

fn read_file(setting: &str, path: &Path) -> Result<Vec<u8>, Error> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        let is_too_large = FILE_BYTES_MAX < bytes.len() as u64;
        if is_too_large { Err(io::Error::other("it is larger than 1 MiB")) } else { Ok(bytes) }
    };
    read().map_err(|cause| refused(format!("`{setting}`: cannot read `{}`: {cause}", path.display()), ""))
}

fn refused(what: String, hint: &str) -> Error {
    Error::Settings { what, hint: hint.to_owned() }
}
