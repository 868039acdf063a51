//! Every byte that crosses a process: REST objects, agent manifest and report, upload tokens.
