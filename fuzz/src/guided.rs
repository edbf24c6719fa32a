//! The way to libFuzzer, whose runtime cargo-fuzz builds in.
#![expect(unsafe_code, reason = "libFuzzer is a C++ library")]

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int};

use libfuzzer_sys as _;

thread_local! {
    /// What [`one`] calls: libFuzzer stays on the thread that it was started on, and knows functions alone.
    static CASE: RefCell<Option<Box<dyn Fn(&[u8])>>> = const { RefCell::new(None) };
}

unsafe extern "C" {
    fn LLVMFuzzerRunDriver(
        argc: *mut c_int,
        argv: *mut *mut *mut c_char,
        case: extern "C" fn(*const u8, usize) -> c_int,
    ) -> c_int;
}

/// Runs `case` as libFuzzer's arguments say. A panic ends the process, and libFuzzer keeps the input.
pub(crate) fn run(name: &str, case: impl Fn(&[u8]) + 'static) {
    CASE.set(Some(Box::new(case)));
    let args = std::iter::once(name.to_owned()).chain(std::env::args().skip(1));
    let args: Vec<_> = args.map(|arg| CString::new(arg).expect("an argument").into_raw()).collect();
    let mut args = [args, vec![std::ptr::null_mut()]].concat();
    let (mut count, mut first) = (c_int::try_from(args.len() - 1).expect("few"), args.as_mut_ptr());
    // SAFETY: `args` are strings with an end, then a null, as a program gets them, and outlive the call.
    let code = unsafe { LLVMFuzzerRunDriver(&raw mut count, &raw mut first, one) };
    std::process::exit(code);
}

extern "C" fn one(data: *const u8, len: usize) -> c_int {
    let input = match len {
        0 => &[][..],
        // SAFETY: libFuzzer hands out `len` bytes that stay as they are during the call.
        _ => unsafe { std::slice::from_raw_parts(data, len) },
    };
    CASE.with_borrow(|case| case.as_ref().expect("set before libFuzzer starts")(input));
    0
}

/// libfuzzer-sys asks for this; it is never called, since [`run`] gives libFuzzer a function of its own.
#[unsafe(no_mangle)]
extern "C" fn rust_fuzzer_test_input(_: *const u8, _: usize) -> c_int {
    unreachable!("libFuzzer calls `one`")
}
