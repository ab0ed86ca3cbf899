module moorage.dev/tests/node

go 1.26.0
