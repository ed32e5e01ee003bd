"""Lightning callbacks: what is logged, written or drawn while a run goes on."""
