module moorage.dev/tests/control-plane

go 1.26.0
