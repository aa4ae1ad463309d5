// The types of Express 4, as far as the tests use it: those of Express 5.

declare module 'express4' {
  import express from 'express'

  export default express
}
