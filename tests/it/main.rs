//! The integration tests: one binary, one file for each surface.

mod journeys;
