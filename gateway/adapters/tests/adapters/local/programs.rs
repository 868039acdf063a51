//! What is put into foreign images needs nothing there.

use basalt_test_programs::program;

/// A program that needs a dynamic linker names it in a program header of the type INTERP.
#[test]
fn the_bridge_and_the_test_program_need_no_other_file() {
    for name in ["basalt-mcp-bridge", "basalt-test-program"] {
        let bytes = std::fs::read(program(name).unwrap()).unwrap();
        assert_eq!(&bytes[..5], b"\x7fELF\x02", "{name}");
        let at = |from: usize, length: usize| {
            bytes[from..from + length].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b))
        };
        let (headers, size, count) = (at(32, 8), at(54, 2), at(56, 2));
        let interpreter = (0..count).any(|i| at(headers + i * size, 4) == 3);
        assert!(!interpreter, "{name} is linked dynamically");
    }
}
