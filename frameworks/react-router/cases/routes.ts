import { type RouteConfig, route } from '@react-router/dev/routes'

export default [route('*', 'routes/all.ts')] satisfies RouteConfig
