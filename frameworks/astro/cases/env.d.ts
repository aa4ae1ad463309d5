declare var application: {
  readonly middleware: import('keepsake/astro').AstroMiddleware
  readonly answer: import('keepsake/testing').Application['handle']
}
