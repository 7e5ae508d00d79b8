//! The packet engine as a Python class; `warren.engine.native` is its typed face.
//!
//! Nothing is decided here: bytes go through, errors become `OSError` or `ValueError` with one
//! sentence, the interpreter is let go during every call, and no panic crosses.

use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use warren_io::engine::{Engine as Native, EngineError};
use warren_io::relay::Relay as NativeRelay;

/// A running engine. Every byte string is MessagePack as in `warren.engine`.
#[pyclass(frozen, module = "warren._engine")]
struct Engine(Native);

#[pymethods]
impl Engine {
    #[new]
    fn new(py: Python<'_>, config: &[u8]) -> PyResult<Self> {
        guarded(py, || Native::start(config)).and_then(|started| match started {
            Ok(engine) => Ok(Self(engine)),
            Err(error) => Err(raise(error)),
        })
    }

    /// Queue commands in order.
    fn apply(&self, py: Python<'_>, commands: &[u8]) -> PyResult<()> {
        guarded(py, || self.0.apply(commands))?.map_err(raise)
    }

    /// Drain the waiting events; never blocks.
    fn poll<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &guarded(py, || self.0.poll())?))
    }

    /// A descriptor that is readable while events wait.
    fn fileno(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Counters now.
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &guarded(py, || self.0.snapshot())?))
    }

    /// Stop the threads, close sockets and device. Idempotent.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        guarded(py, || self.0.close())
    }
}

/// A running relay. Every byte string is MessagePack as in `warren.engine.relay`.
#[pyclass(frozen, module = "warren._engine")]
struct Relay(NativeRelay);

#[pymethods]
impl Relay {
    #[new]
    fn new(py: Python<'_>, config: &[u8]) -> PyResult<Self> {
        guarded(py, || NativeRelay::start(config))?
            .map(Self)
            .map_err(raise)
    }

    /// Obey commands in order.
    fn apply(&self, py: Python<'_>, commands: &[u8]) -> PyResult<()> {
        guarded(py, || self.0.apply(commands))?.map_err(raise)
    }

    /// Drain the waiting events; never blocks.
    fn poll<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &guarded(py, || self.0.poll())?))
    }

    /// A descriptor that is readable while events wait.
    fn fileno(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Counters now.
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &guarded(py, || self.0.snapshot())?))
    }

    /// Close every connection and stop the threads. Idempotent.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        guarded(py, || self.0.close())
    }
}

/// Runs `call` without the interpreter's lock; a panic becomes an error of one sentence.
fn guarded<T: Send>(py: Python<'_>, call: impl FnOnce() -> T + Send) -> PyResult<T> {
    py.detach(|| catch_unwind(AssertUnwindSafe(call)))
        .map_err(|_| PyRuntimeError::new_err("the packet engine failed by an error of its own"))
}

fn raise(error: EngineError) -> PyErr {
    match error {
        EngineError::Malformed(error) => PyValueError::new_err(error.to_string()),
        EngineError::Io(error) => {
            let number = error
                .raw_os_error()
                .unwrap_or_else(|| number_of(error.kind()));
            PyOSError::new_err((number, error.to_string()))
        }
    }
}

/// The errno by which Python picks the subclass of OSError; the sentence replaced the number.
fn number_of(kind: io::ErrorKind) -> i32 {
    match kind {
        io::ErrorKind::NotFound => 2,
        io::ErrorKind::PermissionDenied => 13,
        io::ErrorKind::ResourceBusy => 16,
        io::ErrorKind::InvalidInput => 22,
        io::ErrorKind::AddrInUse => 98,
        io::ErrorKind::AddrNotAvailable => 99,
        io::ErrorKind::NotConnected => 107,
        io::ErrorKind::WouldBlock => 11,
        _ => 5,
    }
}

/// The engine's module.
#[pymodule]
fn _engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Engine>()?;
    module.add_class::<Relay>()
}
