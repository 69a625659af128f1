//! Stands in for `http/tls` in a build without the feature `tls`: there are never certificates, so no session ever begins.
//!
//! `TLS_CERT` stops the start of such a build (`config/check.rs`).

use std::{
    io::{self, Read, Write},
    sync::Arc,
    time::SystemTime,
};

use crate::{config::Config, error::Error};

/// There are none.
#[derive(Debug)]
pub enum Certificates {}

/// What certificates would hold.
#[derive(Debug)]
pub struct Findings {
    /// See `http/tls`.
    pub about: String,
    /// See `http/tls`.
    pub names: Vec<String>,
    /// See `http/tls`.
    pub is_valid: bool,
    /// See `http/tls`.
    pub warnings: Vec<String>,
}

/// There is none.
#[derive(Debug)]
pub(in crate::http) enum ServerConfig {}

/// There is none.
#[derive(Debug)]
pub(in crate::http) enum Session {}

impl Certificates {
    /// None.
    pub fn new(_: &Config) -> Result<Option<Arc<Certificates>>, Error> {
        Ok(None)
    }

    pub(in crate::http) fn current(&self) -> Arc<ServerConfig> {
        match *self {}
    }

    /// See `http/tls`.
    pub fn findings(&self, _: SystemTime) -> Result<Findings, Error> {
        match *self {}
    }
}

impl Session {
    pub(in crate::http) fn new(config: Arc<ServerConfig>) -> io::Result<Session> {
        match *config {}
    }

    pub(in crate::http) fn is_handshaking(&self) -> bool {
        match *self {}
    }

    pub(in crate::http) fn has_plain(&mut self) -> bool {
        match *self {}
    }

    pub(in crate::http) fn read_once(&mut self, _: &mut impl Read, _: &mut impl Write) -> io::Result<()> {
        match *self {}
    }

    pub(in crate::http) fn take(&mut self, _: usize, _: impl FnMut(&[u8])) -> io::Result<Option<usize>> {
        match *self {}
    }

    pub(in crate::http) fn write_slices(&mut self, _: &mut [io::IoSlice<'_>], _: &mut impl Write) -> io::Result<()> {
        match *self {}
    }

    pub(in crate::http) fn say_goodbye(&mut self, _: &mut impl Write) {
        match *self {}
    }
}
