// An interceptor that handles the errors of controllers before the filters do, without an import of rxjs.

type Observer = {
  next(value: unknown): void
  error(error: unknown): void
  complete(): void
}

/** The members of an Observable that are used. */
type Observable = {
  subscribe(observer: Observer): { unsubscribe(): void }
  readonly constructor: unknown
}

type ObservableClass = new (subscribe: (observer: Observer) => () => void) => Observable

type ExecutionContext = {
  getType(): string
  getArgByIndex(index: number): object
}

/**
 * An interceptor that passes values as they are, and every error after `handle` has returned the one to pass. Errors of guards
 * happen before interceptors, so it does not get them.
 */
export const onError = (handle: (error: unknown, request: object, response: object) => Promise<unknown>) => ({
  intercept(context: ExecutionContext, next: { handle(): Observable }): Observable {
    const source = next.handle()
    if (context.getType() !== 'http') return source
    // The class of the rxjs that Nest uses.
    const Observable = source.constructor as ObservableClass
    return new Observable((observer) => {
      const subscription = source.subscribe({
        next: (value) => observer.next(value),
        error(error) {
          handle(error, context.getArgByIndex(0), context.getArgByIndex(1)).then(
            (error) => observer.error(error),
            (error) => observer.error(error),
          )
        },
        complete: () => observer.complete(),
      })
      return () => subscription.unsubscribe()
    })
  },
})
