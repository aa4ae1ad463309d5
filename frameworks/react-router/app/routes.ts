import { index, type RouteConfig, route } from '@react-router/dev/routes'

export default [
  index('routes/home.tsx'),
  ...['login', 'logout', 'steps', 'members', 'fail', 'stream', 'echo', 'race'].map((name) =>
    route(name, `routes/${name}.tsx`),
  ),
  ...['fields', 'storage'].map((name) => route(name, `routes/${name}.ts`)),
] satisfies RouteConfig
